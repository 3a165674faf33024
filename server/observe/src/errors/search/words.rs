//! Texts cut into words as code is: `getUserById` is found by `user`.

use tantivy::tokenizer::{Token, TokenStream, Tokenizer};

/// Cuts text into words as code is written: at what is no letter or digit, and where camelCase begins a word. Each word
/// is given with its place; all are in lower case.
pub(super) fn words(text: &str, mut with: impl FnMut(&str, std::ops::Range<usize>)) {
    let mut word = String::new();
    let (mut begin, mut last) = (0, None::<char>);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|(_, c)| *c);
        let new = match last {
            Some(before) if c.is_uppercase() => {
                before.is_lowercase()
                    || before.is_numeric()
                    || (before.is_uppercase() && next.is_some_and(char::is_lowercase))
            }
            _ => false,
        };
        if !word.is_empty() && (!c.is_alphanumeric() || new) {
            with(&word, begin..at);
            word.clear();
        }
        if c.is_alphanumeric() {
            if word.is_empty() {
                begin = at;
            }
            if word.len() < 80 {
                word.extend(c.to_lowercase());
            }
            last = Some(c);
        } else {
            last = None;
        }
    }
    if !word.is_empty() {
        with(&word, begin..text.len());
    }
}

/// Has tantivy cut texts so.
#[derive(Clone, Default)]
pub(super) struct CodeTokenizer {
    tokens: Vec<Token>,
}

pub(super) struct CodeTokens<'t> {
    tokens: &'t mut Vec<Token>,
    at: usize,
}

impl Tokenizer for CodeTokenizer {
    type TokenStream<'a> = CodeTokens<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> CodeTokens<'a> {
        self.tokens.clear();
        let tokens = &mut self.tokens;
        words(text, |word, place| {
            tokens.push(Token {
                offset_from: place.start,
                offset_to: place.end,
                position: tokens.len(),
                text: word.to_owned(),
                position_length: 1,
            });
        });
        CodeTokens { tokens: &mut self.tokens, at: 0 }
    }
}

impl TokenStream for CodeTokens<'_> {
    fn advance(&mut self) -> bool {
        self.at += 1;
        self.at <= self.tokens.len()
    }

    fn token(&self) -> &Token {
        &self.tokens[self.at - 1]
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.tokens[self.at - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_cut_into_words() {
        let cut = |text: &str| {
            let mut all = Vec::new();
            words(text, |word, _| all.push(word.to_owned()));
            all
        };
        assert_eq!(cut("getUserById"), ["get", "user", "by", "id"]);
        assert_eq!(cut("src/cart_total.ts:12"), ["src", "cart", "total", "ts", "12"]);
        assert_eq!(cut("HTTPServer XMLHttpRequest"), ["http", "server", "xml", "http", "request"]);
        assert_eq!(cut("日本 Größe"), ["日本", "größe"]);
        assert_eq!(cut("ECONNREFUSED"), ["econnrefused"]);
    }
}
