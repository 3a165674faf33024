//! The grammar of searches for errors.
//!
//! ```text
//! query   = or ; or = and { "OR" and } ; and = term { ["AND"] term }
//! term    = ["!" | "-" | "NOT"] ( "(" or ")" | field ":" value | word | "phrase" )
//! value   = [">" | ">=" | "<" | "<="] word | "phrase" | "[" value { "," value } "]"
//! ```
//!
//! Words without a field are looked for in messages, types, functions and files; `*` stands for any characters. Spaces
//! mean AND. What cannot be read is an error with its place, never a search for something else.

use std::fmt;

/// Longest query in bytes.
pub const MAX_QUERY: usize = 2_000;
/// Most terms of a query.
const MAX_TERMS: usize = 60;
/// Deepest nesting.
const MAX_DEPTH: usize = 12;

/// A parsed query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Everything.
    Everything,
    /// All of these.
    And(Vec<Expr>),
    /// One of these.
    Or(Vec<Expr>),
    /// Not this.
    Not(Box<Expr>),
    /// Words in any text.
    Text(Value),
    /// A field that has a value.
    Field {
        /// Its name, in lower case but for tags.
        name: String,
        /// The value.
        value: Value,
        /// Where it stands in the query, in bytes.
        at: usize,
    },
    /// A field that has any value.
    Has {
        /// Its name, as in [`Expr::Field`].
        name: String,
        /// Where it stands in the query, in bytes.
        at: usize,
    },
}

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A word; `*` stands for any characters.
    Word(String),
    /// Words in this order.
    Phrase(String),
    /// A comparison.
    Compare(Comparison, String),
    /// One of these, words and phrases.
    OneOf(Vec<Value>),
}

/// How a number or a time is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Greater, later.
    Greater,
    /// Greater or equal.
    AtLeast,
    /// Less, earlier.
    Less,
    /// Less or equal.
    AtMost,
}

impl Comparison {
    /// Its sign.
    #[must_use]
    pub fn sign(self) -> &'static str {
        match self {
            Self::Greater => ">",
            Self::AtLeast => ">=",
            Self::Less => "<",
            Self::AtMost => "<=",
        }
    }
}

/// What is wrong with a query, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryError {
    /// Byte at which it begins.
    pub at: usize,
    /// What.
    pub what: String,
    /// What would be right, if that can be guessed.
    pub instead: Option<String>,
    /// Whether that names a tag: a word of whoever sent an event with it.
    pub names_a_tag: bool,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at character {})", self.what, self.at + 1)
    }
}

impl QueryError {
    /// An error at a place.
    #[must_use]
    pub fn new(at: usize, what: impl Into<String>) -> Self {
        Self { at, what: what.into(), instead: None, names_a_tag: false }
    }

    /// With what would be right.
    #[must_use]
    pub fn instead(self, instead: impl Into<String>) -> Self {
        Self { instead: Some(instead.into()), ..self }
    }
}

/// Parses a query.
///
/// # Errors
/// What is wrong, and where.
pub fn parse(query: &str) -> Result<Expr, QueryError> {
    if query.len() > MAX_QUERY {
        return Err(QueryError::new(MAX_QUERY, format!("a query has at most {MAX_QUERY} characters")));
    }
    let mut parser = Parser { text: query, at: 0, terms: 0 };
    let expr = parser.or(0)?;
    match parser.peek() {
        None => Ok(expr),
        Some(_) => Err(QueryError::new(parser.at, "a closing parenthesis has no opening one")),
    }
}

/// The name of a field or tag without what says that it is a tag: `tags[shop]`, `tags.shop` and `tag.shop` are `shop`.
#[must_use]
pub fn plain(name: &str) -> &str {
    let listed = name.strip_prefix("tags[").and_then(|n| n.strip_suffix(']'));
    let dotted = || name.strip_prefix("tags.").or_else(|| name.strip_prefix("tag."));
    listed.or_else(dotted).filter(|tag| !tag.is_empty()).unwrap_or(name)
}

struct Parser<'q> {
    text: &'q str,
    at: usize,
    terms: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// The next character that is no space.
    fn peek(&mut self) -> Option<char> {
        let spaces = self.rest().len() - self.rest().trim_start().len();
        self.at += spaces;
        self.rest().chars().next()
    }

    fn take(&mut self, mark: &str) -> bool {
        let found = self.rest().starts_with(mark);
        if found {
            self.at += mark.len();
        }
        found
    }

    /// A word of the grammar, which ends at a space or a parenthesis.
    fn keyword(&mut self, word: &str) -> bool {
        self.peek();
        let after = self.rest().strip_prefix(word);
        let ends = after.is_some_and(|r| r.chars().next().is_none_or(|c| c.is_whitespace() || c == '('));
        if ends {
            self.at += word.len();
        }
        ends
    }

    fn or(&mut self, depth: usize) -> Result<Expr, QueryError> {
        let mut parts = vec![self.and(depth)?];
        while self.keyword("OR") {
            let at = self.at;
            let part = self.and(depth)?;
            if part == Expr::Everything {
                return Err(QueryError::new(at, "OR wants a term on both sides"));
            }
            parts.push(part);
        }
        if parts.len() > 1 && parts[0] == Expr::Everything {
            return Err(QueryError::new(0, "OR wants a term on both sides"));
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::Or(parts) })
    }

    fn and(&mut self, depth: usize) -> Result<Expr, QueryError> {
        let mut parts = Vec::new();
        loop {
            if self.keyword("AND") && parts.is_empty() {
                return Err(QueryError::new(self.at, "AND wants a term on both sides"));
            }
            match self.peek() {
                None | Some(')') => break,
                Some(_) if self.starts_or() => break,
                Some(_) => parts.push(self.term(depth)?),
            }
        }
        Ok(match parts.len() {
            0 => Expr::Everything,
            1 => parts.remove(0),
            _ => Expr::And(parts),
        })
    }

    fn starts_or(&mut self) -> bool {
        let before = self.at;
        let found = self.keyword("OR");
        self.at = before;
        found
    }

    fn term(&mut self, depth: usize) -> Result<Expr, QueryError> {
        self.terms += 1;
        if self.terms > MAX_TERMS {
            return Err(QueryError::new(self.at, format!("a query has at most {MAX_TERMS} terms")));
        }
        if depth > MAX_DEPTH {
            return Err(QueryError::new(self.at, "the query is nested too deeply"));
        }
        if self.keyword("NOT") || self.take("!") || self.take("-") {
            if self.peek().is_none() {
                return Err(QueryError::new(self.at, "a term is missing after NOT"));
            }
            return Ok(Expr::Not(Box::new(self.term(depth + 1)?)));
        }
        let begin = self.at;
        if self.take("(") {
            let inner = self.or(depth + 1)?;
            self.peek();
            if !self.take(")") {
                return Err(QueryError::new(begin, "the parenthesis is not closed")
                    .instead(format!("{})", self.text)));
            }
            return Ok(inner);
        }
        if self.peek() == Some('"') {
            return Ok(Expr::Text(Value::Phrase(self.phrase()?)));
        }
        match self.name() {
            Some(name) => self.field(name, begin),
            None => Ok(Expr::Text(Value::Word(self.word()))),
        }
    }

    /// The name before a colon, if this is a field: `level:`, `tags[shop]:`.
    fn name(&mut self) -> Option<String> {
        let rest = self.rest();
        let end =
            rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']' | '$')))?;
        let name = &rest[..end];
        // `http://…` and `a::b` are words.
        let is_field = rest[end..].starts_with(':')
            && !name.is_empty()
            && !rest[end + 1..].starts_with("//")
            && !rest[end + 1..].starts_with(':');
        let name = name.to_owned();
        if is_field {
            self.at += end + 1;
        }
        is_field.then_some(name)
    }

    fn field(&mut self, name: String, at: usize) -> Result<Expr, QueryError> {
        let name = plain(&name).to_owned();
        let missing = || QueryError::new(at, format!("{name}: has no value")).instead(format!("has:{name}"));
        if self.rest().chars().next().is_none_or(char::is_whitespace) {
            return Err(missing());
        }
        if name == "has" {
            let name = if self.rest().starts_with('"') { self.phrase()? } else { self.word() };
            return Ok(Expr::Has { name: plain(&name).to_owned(), at });
        }
        let value = self.value()?;
        if value == Value::Word(String::new()) {
            return Err(missing());
        }
        Ok(Expr::Field { name, value, at })
    }

    fn value(&mut self) -> Result<Value, QueryError> {
        for (sign, comparison) in [
            (">=", Comparison::AtLeast),
            ("<=", Comparison::AtMost),
            (">", Comparison::Greater),
            ("<", Comparison::Less),
        ] {
            let begin = self.at;
            if self.take(sign) {
                let word = self.word();
                if word.is_empty() {
                    return Err(QueryError::new(begin, format!("{sign} wants a number or a time")));
                }
                return Ok(Value::Compare(comparison, word));
            }
        }
        let begin = self.at;
        if self.take("[") {
            let mut values = Vec::new();
            loop {
                match self.peek() {
                    None => return Err(QueryError::new(begin, "the list is not closed with ]")),
                    Some(']') => {
                        self.at += 1;
                        break;
                    }
                    Some(',') => self.at += 1,
                    Some('"') => values.push(Value::Phrase(self.phrase()?)),
                    Some(_) => values.push(Value::Word(self.until(|c| matches!(c, ',' | ']')))),
                }
                if values.len() > 50 {
                    return Err(QueryError::new(begin, "a list has at most 50 values"));
                }
            }
            return match values.is_empty() {
                true => Err(QueryError::new(begin, "the list has no value")),
                false => Ok(Value::OneOf(values)),
            };
        }
        if self.rest().starts_with('"') {
            return Ok(Value::Phrase(self.phrase()?));
        }
        Ok(Value::Word(self.word()))
    }

    fn phrase(&mut self) -> Result<String, QueryError> {
        let begin = self.at;
        self.at += 1;
        let mut text = String::new();
        let mut escaped = false;
        let inner = self.text[self.at..].char_indices();
        for (offset, c) in inner {
            match c {
                _ if escaped => {
                    text.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    self.at += offset + 1;
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err(QueryError::new(begin, "the quotation mark is not closed").instead(format!("{}\"", self.text)))
    }

    fn word(&mut self) -> String {
        self.until(|c| c.is_whitespace() || c == ')')
    }

    fn until(&mut self, ends: impl Fn(char) -> bool) -> String {
        let rest = self.rest();
        // A parenthesis that was opened within a word belongs to it: `f()`.
        let mut open = 0_u32;
        let end = rest.char_indices().find(|(_, c)| {
            match c {
                '(' => open += 1,
                ')' if open > 0 => {
                    open -= 1;
                    return false;
                }
                _ => {}
            }
            ends(*c)
        });
        let word = rest[..end.map_or(rest.len(), |(at, _)| at)].trim().to_owned();
        self.at += end.map_or(rest.len(), |(at, _)| at);
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, value: &str, at: usize) -> Expr {
        Expr::Field { name: name.into(), value: Value::Word(value.into()), at }
    }

    fn text(word: &str) -> Expr {
        Expr::Text(Value::Word(word.into()))
    }

    #[test]
    fn queries_mean_what_they_say() {
        assert_eq!(parse(""), Ok(Expr::Everything));
        assert_eq!(parse(" a  b "), Ok(Expr::And(vec![text("a"), text("b")])));
        assert_eq!(parse("a AND b"), parse("a b"));
        assert_eq!(parse("a OR b c"), Ok(Expr::Or(vec![text("a"), Expr::And(vec![text("b"), text("c")])])));
        assert_eq!(parse("(a OR b) c"), Ok(Expr::And(vec![Expr::Or(vec![text("a"), text("b")]), text("c")])));
        assert_eq!(parse("!level:error"), Ok(Expr::Not(Box::new(field("level", "error", 1)))));
        assert_eq!(parse("-a NOT b"), parse("!a !b"));
        let has = |name: &str| Ok(Expr::Has { name: name.into(), at: 0 });
        assert_eq!(parse("has:user.email"), has("user.email"));
        for query in ["has:shop", "has:tags[shop]", "has:tags.shop", "has:tag.shop", "has:\"shop\""] {
            assert_eq!(parse(query), has("shop"), "{query}");
        }
        assert_eq!(parse("tag.shop:north"), Ok(field("shop", "north", 0)));
        assert_eq!(
            parse("tags[shop]:north tags.shop:north"),
            Ok(Expr::And(vec![field("shop", "north", 0), field("shop", "north", 17)]))
        );
        assert_eq!(
            parse("\"connection refused\""),
            Ok(Expr::Text(Value::Phrase("connection refused".into())))
        );
        assert_eq!(parse("url:http://a.example/b?c=d"), Ok(field("url", "http://a.example/b?c=d", 0)));
        assert_eq!(parse("http://a.example/b"), Ok(text("http://a.example/b")));
        assert_eq!(parse("std::io::Error"), Ok(text("std::io::Error")));
        assert_eq!(parse("total()"), Ok(text("total()")));
        let compare =
            |c, v: &str| Expr::Field { name: "events".into(), value: Value::Compare(c, v.into()), at: 0 };
        assert_eq!(parse("events:>10"), Ok(compare(Comparison::Greater, "10")));
        assert_eq!(parse("events:<=10"), Ok(compare(Comparison::AtMost, "10")));
        let list = Value::OneOf(vec![Value::Word("a".into()), Value::Phrase("b c".into())]);
        assert_eq!(parse("level:[a, \"b c\"]"), Ok(Expr::Field { name: "level".into(), value: list, at: 0 }));
        assert_eq!(parse("ORder"), Ok(text("ORder")));
    }

    #[test]
    fn a_mistake_has_a_place_and_often_a_remedy() {
        for (query, at, instead) in [
            ("a \"b", 2, Some("a \"b\"")),
            ("(a", 0, Some("(a)")),
            ("a)", 1, None),
            ("a OR", 4, None),
            ("OR a", 0, None),
            ("level:", 0, Some("has:level")),
            ("x events:>", 9, None),
            ("level:[a", 6, None),
            ("!", 1, None),
        ] {
            let error = parse(query).unwrap_err();
            assert_eq!((error.at, error.instead.as_deref()), (at, instead), "{query}: {error}");
        }
        assert!(parse(&"(".repeat(500)).is_err());
        assert!(parse(&"a ".repeat(100)).is_err());
        assert!(parse(&"a".repeat(3000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_query_is_too_strange(query in "[a-z:!()\"\\[\\],<>= \\-ORANDTé日]{0,60}") {
            let _ = parse(&query);
        }
    }
}
