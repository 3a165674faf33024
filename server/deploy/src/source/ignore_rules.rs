//! The rules of a `.dockerignore`: which paths of a build context are left out. Pure.
//!
//! Not the rules of `.gitignore`: a pattern is anchored at the context's root unless it begins with `**/`, a
//! match of a folder is a match of all that is in it, and the last pattern that matches wins, so that a `!` can
//! bring back a file out of a folder that was left out.

/// The most patterns that are read, and the most letters of one.
const MAX_PATTERNS: usize = 2000;
const MAX_PATTERN: usize = 1024;

/// A parsed `.dockerignore`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerIgnore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    negated: bool,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Letter(char),
    /// `?`: any letter but the separator.
    One,
    /// `*`: any letters but the separator.
    Many,
    /// `**` at the end: anything.
    Anything,
    /// `**/` and `**` before something else: any folders, or none.
    Folders,
    /// `[a-z]`, `[^a-z]`.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl DockerIgnore {
    /// Parses the text of a `.dockerignore`. Patterns that cannot be understood are ignored, as an unknown
    /// rule must not make a build impossible; so are those beyond the 2000th.
    pub fn parse(text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self { patterns: lines.filter_map(Pattern::parse).take(MAX_PATTERNS).collect() }
    }

    /// Adds patterns after the others, so that they win.
    pub fn extend(&mut self, patterns: impl IntoIterator<Item = impl AsRef<str>>) {
        self.patterns.extend(patterns.into_iter().filter_map(|pattern| Pattern::parse(pattern.as_ref())));
    }

    /// Whether the path (relative, `/`-separated) is left out.
    pub fn excludes(&self, path: &str) -> bool {
        let letters: Vec<char> = path.chars().collect();
        let ends: Vec<usize> = (0..letters.len())
            .filter(|at| letters[*at] == '/')
            .chain(std::iter::once(letters.len()))
            .collect();
        let mut excluded = false;
        for pattern in &self.patterns {
            // Only a pattern that could change the answer needs to be looked at.
            if pattern.negated == excluded && ends.iter().any(|end| pattern.matches(&letters[..*end])) {
                excluded = !pattern.negated;
            }
        }
        excluded
    }

    /// Whether the folder is left out and nothing in it can be brought back: it need not be looked into.
    pub fn prunes(&self, folder: &str) -> bool {
        self.excludes(folder)
            && !self.patterns.iter().any(|pattern| pattern.negated && pattern.may_match_below(folder))
    }
}

impl Pattern {
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        let (negated, text) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        let clean = clean(text)?;
        if clean.len() > MAX_PATTERN {
            return None;
        }
        Some(Self { negated, tokens: tokens(&clean)? })
    }

    /// Follows all the places in the pattern that the letters so far can have led to, at once: time grows with
    /// the product of both lengths, and not exponentially with the stars.
    fn matches(&self, path: &[char]) -> bool {
        let mut places = vec![false; self.tokens.len() + 1];
        self.arrive(&mut places, 0);
        for letter in path {
            let mut next = vec![false; self.tokens.len() + 1];
            for (at, token) in self.tokens.iter().enumerate().filter(|(at, _)| places[*at]) {
                match token {
                    Token::Letter(wanted) if wanted == letter => self.arrive(&mut next, at + 1),
                    Token::One if *letter != '/' => self.arrive(&mut next, at + 1),
                    Token::Many if *letter != '/' => self.arrive(&mut next, at),
                    Token::Anything => self.arrive(&mut next, at),
                    // In the middle of a folder's name there is no way on; behind its separator there is.
                    Token::Folders if *letter == '/' => {
                        next[at] = true;
                        self.arrive(&mut next, at + 1);
                    }
                    Token::Folders => next[at] = true,
                    Token::Class { negated, ranges } if *letter != '/' => {
                        let within = ranges.iter().any(|(low, high)| low <= letter && letter <= high);
                        if within != *negated {
                            self.arrive(&mut next, at + 1);
                        }
                    }
                    _ => {}
                }
            }
            places = next;
        }
        places[self.tokens.len()]
    }

    /// Marks a place as reached, and those behind it that can be reached by standing for nothing.
    fn arrive(&self, places: &mut [bool], mut at: usize) {
        loop {
            places[at] = true;
            match self.tokens.get(at) {
                Some(Token::Many | Token::Anything | Token::Folders) => at += 1,
                _ => return,
            }
        }
    }

    /// Whether something below the folder could match: by the letters before the first wildcard.
    fn may_match_below(&self, folder: &str) -> bool {
        let literal: String = self
            .tokens
            .iter()
            .map_while(|token| if let Token::Letter(letter) = token { Some(*letter) } else { None })
            .collect();
        let folder = format!("{folder}/");
        let whole = literal.chars().count() == self.tokens.len();
        literal.starts_with(&folder) || (!whole && folder.starts_with(&literal))
    }
}

/// The pattern without leading and doubled separators and `.` parts; `..` takes back the part before it. `None`
/// for one that names nothing inside the context.
fn clean(text: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut letters = text.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(letter) = letters.next() {
        tokens.push(match letter {
            '*' if letters.next_if_eq(&'*').is_some() => {
                while letters.next_if_eq(&'*').is_some() {}
                letters.next_if_eq(&'/');
                if letters.peek().is_none() { Token::Anything } else { Token::Folders }
            }
            '*' => Token::Many,
            '?' => Token::One,
            '[' => class(&mut letters)?,
            '\\' => Token::Letter(letters.next()?),
            letter => Token::Letter(letter),
        });
    }
    Some(tokens)
}

fn class(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = letters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match letters.next()? {
            ']' if ranges.is_empty() => return None,
            ']' => return Some(Token::Class { negated, ranges }),
            '\\' => letters.next()?,
            letter => letter,
        };
        let high = if letters.next_if_eq(&'-').is_some() {
            match letters.next()? {
                ']' => return None,
                '\\' => letters.next()?,
                letter => letter,
            }
        } else {
            low
        };
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn left_out(rules: &str, paths: &[&str]) -> Vec<String> {
        let rules = DockerIgnore::parse(rules);
        paths.iter().filter(|path| rules.excludes(path)).map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn patterns_are_anchored_and_folders_take_their_content_along() {
        let paths = ["node_modules/a/b", "src/node_modules/c", "x.log", "src/x.log", "README.md"];
        assert_eq!(left_out("node_modules\n*.log", &paths), ["node_modules/a/b", "x.log"]);
        assert_eq!(
            left_out("**/node_modules\n**/*.log", &paths),
            ["node_modules/a/b", "src/node_modules/c", "x.log", "src/x.log"]
        );
        assert_eq!(left_out("/src/", &paths), ["src/node_modules/c", "src/x.log"]);
        assert_eq!(left_out("# README.md\n\n.\n..\n!", &paths), Vec::<String>::new());
    }

    #[test]
    fn the_last_match_wins_and_can_bring_back() {
        let paths = ["docs/a.md", "docs/keep.md", "README.md", "README-secret.md"];
        assert_eq!(left_out("docs\n!docs/keep.md", &paths), ["docs/a.md"]);
        assert_eq!(left_out("*.md\n!README*.md\nREADME-secret.md", &paths), ["README-secret.md"]);
        assert_eq!(left_out("*\n!docs", &paths), ["README.md", "README-secret.md"]);
    }

    #[test]
    fn wildcards() {
        let one = |rule: &str, path: &str| DockerIgnore::parse(rule).excludes(path);
        assert!(one("a?c", "abc") && !one("a?c", "a/c") && !one("a?c", "ac"));
        assert!(one("[a-c]x", "bx") && !one("[^a-c]x", "bx") && one("[^a-c]x", "dx") && !one("[x", "[x"));
        assert!(one("a/**", "a/b/c") && !one("a/**", "a") && one("**", "x/y"));
        assert!(one("a/**/z", "a/z") && one("a/**/z", "a/b/c/z") && !one("a/**/z", "a/bz"));
        assert!(one("a**z", "az") && one("a**z", "ab/z") && !one("a**z", "abz"));
        assert!(one("\\*", "*") && !one("\\*", "x"));
        assert!(one("./a//b/../c", "a/c"));
        assert!(one("*/*/x", "a/b/x") && !one("*/*/x", "a/x"));
        assert!(one("  sp  ", "sp"));
    }

    #[test]
    fn folders_are_pruned_only_when_nothing_in_them_can_come_back() {
        let rules = DockerIgnore::parse("node_modules\ndocs\n!docs/keep.md");
        assert!(rules.prunes("node_modules") && !rules.prunes("docs") && !rules.prunes("src"));
        assert!(!DockerIgnore::parse("a\n!**/x").prunes("a"));
        assert!(!DockerIgnore::parse("a\n!a/b/c").prunes("a/b"));
    }

    #[test]
    fn many_stars_take_no_more_than_many_steps() {
        let rules = DockerIgnore::parse(&format!("{}b", "*a".repeat(200)));
        assert!(!rules.excludes(&"a".repeat(400)));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_and_any_path_judged(text in "\\PC{0,60}|[a/*?!\\[\\]^\\-\n]{0,40}", path in "[a-c/]{1,12}") {
            let rules = DockerIgnore::parse(&text);
            if rules.prunes(&path) {
                prop_assert!(rules.excludes(&format!("{path}/x")), "pruned, but a file in it is kept");
            }
        }

        #[test]
        fn a_plain_name_matches_itself_and_what_is_below(name in "[a-z]{1,5}(/[a-z]{1,5}){0,2}") {
            let rules = DockerIgnore::parse(&name);
            let (below, beside) = (format!("{name}/x"), format!("{name}x"));
            prop_assert!(rules.excludes(&name) && rules.excludes(&below) && !rules.excludes(&beside));
        }
    }
}
