//! Masks the values of secrets in text that people will read.

use std::borrow::Cow;

use super::BuildSecret;

/// Shorter values would mask innocent text, and protect nothing.
const SHORTEST: usize = 6;
const MASK: &str = "***";

/// The values to mask, longest first: a value may contain another.
pub(super) struct Redactor {
    values: Vec<String>,
}

impl Redactor {
    pub(super) fn new(secrets: &[BuildSecret]) -> Self {
        let mut values: Vec<String> = secrets
            .iter()
            .map(|secret| String::from_utf8_lossy(&secret.value).into_owned())
            .flat_map(|text| {
                // Logs are read line by line, so a value of several lines is masked by line.
                let lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
                lines
            })
            .filter(|value| value.len() >= SHORTEST)
            .collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        values.dedup();
        Self { values }
    }

    pub(super) fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for value in &self.values {
            if text.contains(value.as_str()) {
                text = Cow::Owned(text.replace(value.as_str(), MASK));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor(values: &[&str]) -> Redactor {
        let secrets: Vec<_> = values
            .iter()
            .map(|value| BuildSecret { id: "x".into(), value: value.as_bytes().to_vec() })
            .collect();
        Redactor::new(&secrets)
    }

    #[test]
    fn values_are_masked_wherever_they_stand() {
        let redactor = redactor(&["s3cr3t-token", "s3cr3t-token-long"]);
        assert_eq!(redactor.apply("a s3cr3t-token-long b s3cr3t-token"), "a *** b ***");
        assert_eq!(redactor.apply("nothing here"), "nothing here");
    }

    #[test]
    fn a_value_of_several_lines_is_masked_by_line() {
        let redactor = redactor(&["BEGIN KEY\nabcdefgh\nEND KEY\n"]);
        assert_eq!(redactor.apply("read: abcdefgh"), "read: ***");
    }

    #[test]
    fn short_values_do_not_eat_the_log() {
        assert_eq!(redactor(&["1", "true"]).apply("1 is true"), "1 is true");
    }
}
