//! References of variables to other variables. Pure: values in, values or faults out.
//!
//! `${NAME}` in a value stands for the value of that variable as the running environment sees it, or for one of those
//! that Berth gives. `$` before `{` is doubled to be itself: `$${` is the text `${`, `$$${NAME}` is a `$` and a
//! reference. Any other `$` is a `$`.

use std::fmt;

use berth_schemas::VariableName;

mod built_in;
mod resolve;

pub use built_in::BuiltIns;
pub(crate) use built_in::branch_of;
pub use resolve::{Fault, LONGEST_VALUE, Resolved, problem_of, resolve};

/// Why a value is no template. Never with what stands there: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum BadTemplate {
    /// `${` without `}`.
    #[error("a ${{ in it has no }}")]
    Unclosed,
    /// What stands between the braces is no name.
    #[error("what stands in a ${{…}} of it is no variable's name")]
    NoName,
}

/// A piece of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Stands for itself. Neither empty nor beside another text.
    Text(String),
    /// Stands for the value of this variable.
    Reference(VariableName),
}

/// A value with its references told apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl Template {
    /// Reads a value.
    ///
    /// # Errors
    /// When a `${` begins no reference.
    pub fn parse(value: &str) -> Result<Self, BadTemplate> {
        Self::read(value.chars().map(|c| (c, false)))
    }

    /// A value that stands for itself.
    #[must_use]
    pub fn literal(text: &str) -> Self {
        let mut template = Self::default();
        text.chars().for_each(|c| template.push(c));
        template
    }

    /// Reads characters of which some are known to stand for themselves (true), as those in a file's quotes.
    ///
    /// # Errors
    /// When a `${` begins no reference.
    pub fn read(chars: impl IntoIterator<Item = (char, bool)>) -> Result<Self, BadTemplate> {
        let chars: Vec<(char, bool)> = chars.into_iter().collect();
        let (mut template, mut at) = (Self::default(), 0);
        while let Some(&(c, literal)) = chars.get(at) {
            if c != '$' || literal {
                template.push(c);
                at += 1;
                continue;
            }
            let signs = chars.iter().skip(at).take_while(|c| **c == ('$', false)).count();
            at += signs;
            if chars.get(at) != Some(&('{', false)) {
                (0..signs).for_each(|_| template.push('$'));
                continue;
            }
            (0..signs / 2).for_each(|_| template.push('$'));
            if signs % 2 == 0 {
                continue;
            }
            let inner = chars.get(at + 1..).unwrap_or_default();
            let end = inner.iter().position(|(c, _)| *c == '}').ok_or(BadTemplate::Unclosed)?;
            let name: String = inner.iter().take(end).map(|(c, _)| *c).collect();
            template.0.push(Part::Reference(name.parse().map_err(|_| BadTemplate::NoName)?));
            at += end + 2;
        }
        Ok(template)
    }

    fn push(&mut self, c: char) {
        match self.0.last_mut() {
            Some(Part::Text(text)) => text.push(c),
            _ => self.0.push(Part::Text(c.into())),
        }
    }

    /// Its pieces.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The names that it refers to, in their order, each as often as it stands there.
    pub fn names(&self) -> impl Iterator<Item = &VariableName> {
        self.0.iter().filter_map(|part| match part {
            Part::Reference(name) => Some(name),
            Part::Text(_) => None,
        })
    }
}

/// As it is set: [`Template::parse`] reads it as the same.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.0.iter().peekable();
        while let Some(part) = parts.next() {
            let text = match part {
                Part::Reference(name) => {
                    write!(f, "${{{name}}}")?;
                    continue;
                }
                Part::Text(text) => text,
            };
            let mut rest = text.as_str();
            while let Some(at) = rest.find('$') {
                let (before, signs) = rest.split_at(at);
                let after = signs.trim_start_matches('$');
                let signs = &signs[..signs.len() - after.len()];
                let brace = after.starts_with('{') || (after.is_empty() && parts.peek().is_some());
                write!(f, "{before}{signs}{}", if brace { signs } else { "" })?;
                rest = after;
            }
            f.write_str(rest)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Part {
        Part::Text(text.into())
    }

    fn to(name: &str) -> Part {
        Part::Reference(name.parse().unwrap())
    }

    #[test]
    fn values_are_read_as_they_are_documented() {
        for (value, parts) in [
            ("", vec![]),
            ("a", vec![text("a")]),
            ("${A}", vec![to("A")]),
            ("x${A}y${B_2}", vec![text("x"), to("A"), text("y"), to("B_2")]),
            ("$${A}", vec![text("${A}")]),
            ("$$${A}", vec![text("$"), to("A")]),
            ("$$$${A}", vec![text("$${A}")]),
            ("pa$$w{o}rd$", vec![text("pa$$w{o}rd$")]),
            ("$A}", vec![text("$A}")]),
        ] {
            assert_eq!(Template::parse(value).unwrap().parts(), parts, "{value}");
        }
        assert_eq!(Template::parse("a${"), Err(BadTemplate::Unclosed));
        for value in ["${}", "${A:-b}", "${ A}", "${1}", "${${A}}"] {
            assert_eq!(Template::parse(value), Err(BadTemplate::NoName), "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(
            parts in prop::collection::vec(
                prop_oneof!["[$a{}]{1,6}".prop_map(Part::Text), "[A-Z]{1,3}".prop_map(|n| to(&n))], 0..8,
            )
        ) {
            let mut template = Template::default();
            for part in parts {
                match part {
                    Part::Text(text) => text.chars().for_each(|c| template.push(c)),
                    part => template.0.push(part),
                }
            }
            prop_assert_eq!(Template::parse(&template.to_string()).unwrap(), template);
        }

        #[test]
        fn what_is_read_is_written_as_the_same(value in "[$ab{}]{0,12}") {
            if let Ok(template) = Template::parse(&value) {
                prop_assert_eq!(template.to_string(), value);
            }
        }

        #[test]
        fn any_text_can_be_said(text in "\\PC{0,20}") {
            let template = Template::parse(&Template::literal(&text).to_string()).unwrap();
            prop_assert_eq!(template.names().count(), 0);
            prop_assert_eq!(template, Template::literal(&text));
        }
    }
}
