//! Short texts that keep apart what Berth says and what it only quotes.
//!
//! An answer's brief mixes Berth's own words with lines of logs, commit messages and paths that strangers
//! wrote. A plain string would forget which is which; [`Text`] remembers, so that the surface which shows it
//! can frame the quotes (MCP) or clean them (a terminal).

use berth_schemas::{Problem, Untrusted};

/// A piece of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Berth's own words.
    Own(String),
    /// Quoted from an app, a visitor, a commit or a log.
    Quoted(String),
}

/// A text made of own words and quotes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(Vec<Part>);

impl Text {
    /// An empty text.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds own words.
    #[must_use]
    pub fn say(mut self, words: impl AsRef<str>) -> Self {
        match self.0.last_mut() {
            Some(Part::Own(last)) => last.push_str(words.as_ref()),
            _ => self.0.push(Part::Own(words.as_ref().to_owned())),
        }
        self
    }

    /// Adds own words, if there are some.
    #[must_use]
    pub fn say_if(self, words: Option<impl AsRef<str>>) -> Self {
        match words {
            Some(words) => self.say(words),
            None => self,
        }
    }

    /// Adds what a problem says and what to do next: its sentence as a quote, where it holds words of others.
    #[must_use]
    pub fn tell(self, problem: &Problem) -> Self {
        let text = match problem.quotes {
            true => self.quote(&problem.detail.as_str().into()),
            false => self.say(&problem.detail),
        };
        text.say_if(problem.hint.as_ref().map(|hint| format!(" {hint}")))
    }

    /// Adds a quote.
    #[must_use]
    pub fn quote(mut self, text: &Untrusted) -> Self {
        self.0.push(Part::Quoted(text.0.clone()));
        self
    }

    /// Adds lines of quotes as one block.
    #[must_use]
    pub fn quote_lines<'a>(mut self, lines: impl IntoIterator<Item = std::borrow::Cow<'a, str>>) -> Self {
        let mut block = String::new();
        for line in lines {
            if !block.is_empty() {
                block.push('\n');
            }
            block.push_str(&line);
        }
        if !block.is_empty() {
            self.0.push(Part::Quoted(block));
        }
        self
    }

    /// Adds another text, with its quotes.
    #[must_use]
    pub fn join(self, other: Text) -> Self {
        other.0.into_iter().fold(self, |mut text, part| match part {
            Part::Own(words) => text.say(words),
            quoted @ Part::Quoted(_) => {
                text.0.push(quoted);
                text
            }
        })
    }

    /// The pieces in order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Text {
    fn from(words: T) -> Self {
        Self(vec![Part::Own(words.into())])
    }
}

/// The text without frames, for terminals: control characters of quotes are dropped, so that a log line
/// cannot move the cursor or change colours.
impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in &self.0 {
            match part {
                Part::Own(words) => f.write_str(words)?,
                Part::Quoted(text) => f.write_str(&printable(text))?,
            }
        }
        Ok(())
    }
}

/// The text without what is invisible or acts on its reader: terminal escape sequences, control characters
/// but newline and tab, characters that reverse the direction of reading, and Unicode's invisible tags.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.peek() == Some(&'[') {
            // A control sequence ends with a letter or one of @[\]^_`{|}~.
            chars.next();
            while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
            chars.next_if(|c| matches!(c, '@'..='~'));
        } else if matches!(c, '\n' | '\t') || !(c.is_control() || is_deceptive(c)) {
            clean.push(c);
        }
    }
    clean
}

/// Whether a character hides text or changes the order in which it is read.
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_cannot_drive_the_terminal() {
        let text = Text::from("web#1: ").quote(&"\u{1b}[2Jgone\u{7}".into()).say(" (end)");
        assert_eq!(text.to_string(), "web#1: gone (end)");
        assert_eq!(text.parts().len(), 3);
    }

    #[test]
    fn a_problem_in_the_words_of_others_is_a_quote_and_its_hint_is_not() {
        use berth_schemas::Code;
        let failed = Problem::new(Code::BuildFailed, "RUN obey failed.").hint("Correct it.");
        let parts = [Part::Quoted("RUN obey failed.".into()), Part::Own(" Correct it.".into())];
        assert_eq!(Text::new().tell(&failed).parts(), parts);
        let none = Problem::new(Code::NotFound, "There is no app.");
        assert_eq!(Text::new().tell(&none).parts(), [Part::Own("There is no app.".into())]);
    }

    #[test]
    fn colours_and_hidden_text_go_and_languages_stay() {
        assert_eq!(printable("\u{1b}[1;31merror\u{1b}[0m:\tعربي 日本"), "error:\tعربي 日本");
        assert_eq!(printable("a\u{e0041}\u{202e}b\u{1b}"), "ab");
    }
}
