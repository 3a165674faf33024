//! The text of `.env` files, as shells and the usual libraries read them: `NAME=value` lines, an optional `export`,
//! comments, single quotes (literal, over several lines), double quotes (with escapes, over several lines).
//!
//! `${NAME}` outside single quotes refers to another variable. Values go in and out in the form in which they are set
//! here, where `$${` is the text `${`.

use berth_deploy::references::{BadTemplate, Part, Template};
use berth_schemas::VariableName;

/// Why a text is none, with the line, but never with what stands there: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub(crate) struct BadLine {
    pub(crate) line: usize,
    pub(crate) why: &'static str,
}

const UNCLOSED: &str = "a ${ has no }; put the value in single quotes if it stands for itself";
const NO_NAME: &str =
    "what stands in ${…} is no variable's name; put the value in single quotes if it stands for itself";

struct Reader<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    line: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn bad<T>(&self, line: usize, why: &'static str) -> Result<T, BadLine> {
        Err(BadLine { line, why })
    }

    fn skip(&mut self, which: impl Fn(char) -> bool) {
        while self.rest.peek().is_some_and(|c| which(*c)) {
            self.next();
        }
    }

    /// Up to the end of the line, which is taken, too.
    fn rest_of_line(&mut self) -> String {
        let mut text = String::new();
        while let Some(c) = self.next().filter(|c| *c != '\n') {
            text.push(c);
        }
        text
    }

    /// Characters, each with whether it stands for itself whatever is beside it.
    fn quoted(&mut self, quote: char) -> Result<Vec<(char, bool)>, BadLine> {
        let (begun, mut value) = (self.line, Vec::new());
        self.next();
        loop {
            match self.next() {
                None => return self.bad(begun, "the quote that begins there has no end"),
                Some(c) if c == quote => break,
                Some('\\') if quote == '"' => match self.next() {
                    Some('n') => value.push(('\n', true)),
                    Some('r') => value.push(('\r', true)),
                    Some('t') => value.push(('\t', true)),
                    Some(c @ ('"' | '\\' | '$')) => value.push((c, true)),
                    Some(c) => value.extend([('\\', true), (c, false)]),
                    None => return self.bad(begun, "the quote that begins there has no end"),
                },
                Some(c) => value.push((c, quote == '\'')),
            }
        }
        let line = self.line;
        let after = self.rest_of_line();
        match after.trim_start() {
            after if after.is_empty() || after.starts_with('#') => Ok(value),
            _ => self.bad(line, "only a comment may follow a closing quote"),
        }
    }
}

/// Reads a text; of a name that stands there twice, the last value.
pub(crate) fn parse(text: &str) -> Result<Vec<(VariableName, String)>, BadLine> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut reader = Reader { rest: text.chars().peekable(), line: 1 };
    let mut all: Vec<(VariableName, String)> = Vec::new();
    loop {
        reader.skip(char::is_whitespace);
        let line = reader.line;
        match reader.rest.peek() {
            None => return Ok(all),
            Some('#') => {
                reader.rest_of_line();
                continue;
            }
            Some(_) => {}
        }
        let mut name = String::new();
        loop {
            match reader.rest.peek() {
                None | Some('\n') => return reader.bad(line, "there is no = after the name"),
                Some('=') => break,
                Some(c) => name.push(*c),
            }
            reader.next();
        }
        reader.next();
        let name = name.trim();
        let name = name.strip_prefix("export").filter(|n| n.starts_with([' ', '\t'])).unwrap_or(name).trim();
        let Ok(name) = name.parse::<VariableName>() else {
            return reader.bad(line, "the name is none: use letters, digits and underscores");
        };
        reader.skip(|c| c == ' ' || c == '\t');
        let value = match reader.rest.peek() {
            Some(quote @ ('"' | '\'')) => {
                let quote = *quote;
                reader.quoted(quote)?
            }
            _ => {
                let value = reader.rest_of_line();
                let end = value.char_indices().find(|(at, c)| {
                    *c == '#' && value[..*at].chars().next_back().is_none_or(char::is_whitespace)
                });
                let value = value[..end.map_or(value.len(), |(at, _)| at)].trim_end();
                value.chars().map(|c| (c, false)).collect()
            }
        };
        let value = match Template::read(value) {
            Ok(template) => template.to_string(),
            Err(BadTemplate::Unclosed) => return reader.bad(line, UNCLOSED),
            Err(BadTemplate::NoName) => return reader.bad(line, NO_NAME),
        };
        if value.contains('\0') {
            return reader.bad(line, "the value holds a NUL character");
        }
        all.retain(|(known, _)| *known != name);
        all.push((name, value));
    }
}

/// Writes a text that [`parse`] reads as the same, each value in double quotes.
pub(crate) fn write<'v>(variables: impl IntoIterator<Item = (&'v VariableName, Template)>) -> String {
    let mut text = String::new();
    for (name, value) in variables {
        text.push_str(name.as_str());
        text.push_str("=\"");
        for part in value.parts() {
            let part = match part {
                Part::Text(part) => part,
                Part::Reference(to) => {
                    text.push_str(&format!("${{{to}}}"));
                    continue;
                }
            };
            for c in part.chars() {
                match c {
                    '\n' => text.push_str("\\n"),
                    '\r' => text.push_str("\\r"),
                    '"' | '\\' | '$' => text.extend(['\\', c]),
                    c => text.push(c),
                }
            }
        }
        text.push_str("\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().map(|(n, v)| (n.to_string(), v)).collect()
    }

    fn one(text: &str) -> String {
        let all = read(text);
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].1.clone()
    }

    #[test]
    fn values_are_read_as_shells_do() {
        assert_eq!(one("# a comment\n\nexport A=b # why\n"), "b");
        assert_eq!(one("A = b c  "), "b c");
        assert_eq!(one("A=http://x/#y"), "http://x/#y");
        assert_eq!(one("A="), "");
        assert_eq!(one("A='b\\n$C'"), "b\\n$C");
        assert_eq!(one("A=\"b\\nc \\\"d\\\" \\$E\" # why"), "b\nc \"d\" $E");
        assert_eq!(one("A=\"-----BEGIN\nkey\n-----END\"\n"), "-----BEGIN\nkey\n-----END");
        assert_eq!(one("\u{feff}A=1\r\nA=2\r\n"), "2", "the last one counts");
        assert_eq!(read("exported=1\nB=2").len(), 2);
    }

    #[test]
    fn references_are_told_from_what_stands_for_itself() {
        for (text, value) in [
            ("A=x${B}", "x${B}"),
            ("A=\"x${B}\"", "x${B}"),
            ("A='x${B}'", "x$${B}"),
            ("A='x${'", "x$${"),
            ("A=\"x\\${B}\"", "x$${B}"),
            ("A=\"\\$${B}\"", "$$${B}"),
            ("A=$${B}", "$${B}"),
            ("A=$B", "$B"),
        ] {
            assert_eq!(one(text), value, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_alone() {
        for (text, line) in [
            ("A=1\nsesame", 2),
            ("1A=sesame", 1),
            ("A='sesame\n\n", 1),
            ("A=\"x\" sesame", 1),
            ("\nA-B=sesame", 2),
            ("A=sesame\0", 1),
            ("B=1\nA=sesame${", 2),
            ("A=\"sesame${B:-c}\"", 1),
        ] {
            let bad = parse(text).unwrap_err();
            assert_eq!(bad.line, line, "{text}");
            assert!(!bad.to_string().contains("sesame"));
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(values in prop::collection::vec("([^\0]{0,40}|[$A{}]{0,9})", 0..6)) {
            let values: Vec<String> = values;
            let names: Vec<VariableName> = (0..values.len()).map(|i| format!("V{i}").parse().unwrap()).collect();
            let templates: Vec<Template> =
                values.iter().map(|v| Template::parse(v).unwrap_or_else(|_| Template::literal(v))).collect();
            let text = write(names.iter().zip(templates.clone()));
            let again = parse(&text).unwrap();
            prop_assert_eq!(again.len(), names.len());
            for ((_, value), template) in again.iter().zip(templates) {
                prop_assert_eq!(Template::parse(value).unwrap(), template);
            }
        }

        #[test]
        fn nothing_makes_it_panic(text in "(?s).{0,200}") {
            let _ = parse(&text);
        }
    }
}
