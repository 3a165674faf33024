//! What a push asks for: the refs that are to move, the client's abilities, and the options of its user.

use berth_schemas::{EnvironmentName, push::PushWishes};
use tokio::io::AsyncRead;

use super::pkt::{self, PktError, SideBand};
use crate::source::git::{CommitSha, GitRef};

/// Most refs in one push.
const MAX_REFS: usize = 1000;
/// Most commits at which a client's history may be cut.
const MAX_SHALLOW: usize = 10_000;
/// Most options in one push.
const MAX_OPTIONS: usize = 20;
/// Stands for no commit.
pub(crate) const ZERO: &str = "0000000000000000000000000000000000000000";

/// One ref that is to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Move {
    /// Its full name, as it was given.
    pub(crate) name: String,
    /// Where the client saw it; none if it did not exist.
    pub(crate) old: Option<CommitSha>,
    /// Where it is to go; none to delete it.
    pub(crate) new: Option<CommitSha>,
}

/// A ref by its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// A branch, by its short name.
    Branch(&'a str),
    /// A tag, by its short name.
    Tag(&'a str),
}

impl Move {
    /// What kind of ref it is, or why such a one cannot be pushed.
    pub(crate) fn kind(&self) -> Result<Kind<'_>, String> {
        let kind = match (self.name.strip_prefix("refs/heads/"), self.name.strip_prefix("refs/tags/")) {
            (Some(branch), _) => Kind::Branch(branch),
            (_, Some(tag)) => Kind::Tag(tag),
            _ => return Err("only branches and tags can be pushed here".into()),
        };
        let (Kind::Branch(short) | Kind::Tag(short)) = &kind;
        // A name such as refs/heads/refs/heads/x or HEAD would be taken for another one.
        if *short == "HEAD" || short.starts_with("refs/") {
            return Err("the name would be taken for another one".into());
        }
        GitRef::parse(short).map(|_| kind).map_err(|error| error.to_string())
    }
}

/// All that comes before the objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What is to move.
    pub(crate) moves: Vec<Move>,
    /// Where the client's history is cut.
    pub(crate) shallow: Vec<CommitSha>,
    /// How the answer is packed.
    pub(crate) side_band: SideBand,
    /// The client wants to be told of each ref.
    pub(crate) report: bool,
    /// All refs or none.
    pub(crate) atomic: bool,
    /// What the user said with -o.
    pub(crate) options: Vec<String>,
}

impl Wanted {
    /// Reads it. None if the client only wants to see whether it may push.
    pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Self>, PktError> {
        let mut wanted = Self {
            moves: Vec::new(),
            shallow: Vec::new(),
            side_band: SideBand::None,
            report: false,
            atomic: false,
            options: Vec::new(),
        };
        let mut takes_options = false;
        while let Some(line) = pkt::read(from).await? {
            if let Some(commit) = line.strip_prefix(b"shallow ") {
                if wanted.shallow.len() == MAX_SHALLOW {
                    return Err(PktError::TooMuch("the history is cut in too many places"));
                }
                wanted.shallow.push(commit_of(commit.trim_ascii_end())?);
                continue;
            }
            let mut halves = line.splitn(2, |byte| *byte == 0);
            let command = halves.next().unwrap_or_default();
            if let Some(abilities) = halves.next().filter(|_| wanted.moves.is_empty()) {
                takes_options = wanted.take_abilities(&String::from_utf8_lossy(abilities))?;
            }
            if wanted.moves.len() == MAX_REFS {
                return Err(PktError::TooMuch("it moves more than 1000 refs at once"));
            }
            wanted.moves.push(move_of(command)?);
        }
        if wanted.moves.is_empty() {
            return Ok(None);
        }
        if takes_options {
            while let Some(option) = pkt::read(from).await? {
                if wanted.options.len() == MAX_OPTIONS {
                    return Err(PktError::TooMuch("it has more than 20 options"));
                }
                wanted.options.push(String::from_utf8_lossy(option.trim_ascii_end()).into_owned());
            }
        }
        Ok(Some(wanted))
    }

    /// Returns whether options follow.
    fn take_abilities(&mut self, text: &str) -> Result<bool, PktError> {
        let mut options = false;
        for ability in text.split_ascii_whitespace() {
            match ability.split_once('=').unwrap_or((ability, "")) {
                ("report-status", _) => self.report = true,
                ("side-band-64k", _) => self.side_band = SideBand::Large,
                ("side-band", _) if self.side_band == SideBand::None => self.side_band = SideBand::Small,
                ("atomic", _) => self.atomic = true,
                ("push-options", _) => options = true,
                ("object-format", "sha1") => {}
                ("object-format", other) => {
                    return Err(PktError::Nonsense(format!("objects are named by {other:?}, here by sha1")));
                }
                _ => {}
            }
        }
        Ok(options)
    }

    /// Whether objects follow: to delete refs takes none.
    pub(crate) fn brings_objects(&self) -> bool {
        self.moves.iter().any(|m| m.new.is_some())
    }
}

fn commit_of(text: &[u8]) -> Result<CommitSha, PktError> {
    let nonsense = || PktError::Nonsense("a commit has no valid name".into());
    let text = std::str::from_utf8(text).map_err(|_| nonsense())?;
    CommitSha::parse(text).ok().filter(|commit| commit.as_str().len() == ZERO.len()).ok_or_else(nonsense)
}

fn move_of(line: &[u8]) -> Result<Move, PktError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let nonsense = || PktError::Nonsense("a command is not \"old new ref\"".into());
    let text =
        std::str::from_utf8(line).map_err(|_| PktError::Nonsense("a ref's name is not UTF-8".into()))?;
    let mut words = text.splitn(3, ' ');
    let (Some(old), Some(new), Some(name)) = (words.next(), words.next(), words.next()) else {
        return Err(nonsense());
    };
    if name.is_empty() || name.len() > 1024 {
        return Err(nonsense());
    }
    let commit = |text: &str| match text {
        ZERO => Ok(None),
        text => commit_of(text.as_bytes()).map(Some),
    };
    Ok(Move { name: name.to_owned(), old: commit(old)?, new: commit(new)? })
}

/// Reads what the user said with `git push -o`.
///
/// # Errors
/// Which option is none, with those that there are.
pub(crate) fn wishes(options: &[String]) -> Result<PushWishes, String> {
    let mut wishes = PushWishes::default();
    for option in options {
        match option.split_once('=').unwrap_or((option, "")) {
            ("skip", "") | ("ci.skip", "") => wishes.skip = true,
            ("force", "") => wishes.force = true,
            ("no-cache", "") => wishes.no_cache = true,
            ("environment", name) => match name.parse::<EnvironmentName>() {
                Ok(name) => wishes.environment = Some(name),
                Err(error) => return Err(error.to_string()),
            },
            _ => {
                return Err(format!(
                    "there is no push option {:?}; use skip, force, no-cache or environment=NAME",
                    option.chars().take(60).collect::<String>()
                ));
            }
        }
    }
    Ok(wishes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0123456789abcdef0123456789abcdef01234567";

    async fn read(lines: &[&str], options: &[&str]) -> Result<Option<Wanted>, PktError> {
        let mut bytes: Vec<u8> = lines.iter().flat_map(|line| pkt::packet(line.as_bytes())).collect();
        bytes.extend_from_slice(pkt::FLUSH);
        bytes.extend(options.iter().flat_map(|line| pkt::packet(line.as_bytes())));
        bytes.extend_from_slice(pkt::FLUSH);
        Wanted::read(&mut bytes.as_slice()).await
    }

    #[tokio::test]
    async fn commands_abilities_and_options_are_read() {
        let first = format!(
            "{ZERO} {A} refs/heads/main\0 report-status side-band-64k atomic push-options agent=git/2\n"
        );
        let second = format!("{A} {ZERO} refs/tags/v1\n");
        let wanted = read(&[&first, &second], &["skip", "environment=staging"]).await.unwrap().unwrap();
        assert_eq!(wanted.moves[0].kind(), Ok(Kind::Branch("main")));
        assert_eq!((wanted.moves[0].old.as_ref(), wanted.moves[1].new.as_ref()), (None, None));
        assert!(wanted.report && wanted.atomic && wanted.side_band == SideBand::Large);
        let wishes = wishes(&wanted.options).unwrap();
        assert!(wishes.skip && wishes.environment.is_some());
        assert!(read(&[], &[]).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        for bad in
            ["", "x", "a b c", &format!("{A} {A}"), &format!("{A} {A} "), &format!("{A}a {A} refs/heads/x")]
        {
            assert!(read(&[bad], &[]).await.is_err(), "{bad}");
        }
        let sha256 = format!("{ZERO} {A} refs/heads/x\0object-format=sha256");
        assert!(matches!(read(&[&sha256], &[]).await, Err(PktError::Nonsense(_))));
        assert!(wishes(&["skip=1".into()]).is_err() && wishes(&["environment=A B".into()]).is_err());
    }

    #[test]
    fn only_branches_and_tags_with_good_names_can_be_pushed() {
        let named = |name: &str| Move { name: name.into(), old: None, new: None };
        assert_eq!(named("refs/tags/v1.0").kind(), Ok(Kind::Tag("v1.0")));
        for bad in [
            "HEAD",
            "refs/heads/",
            "refs/heads/HEAD",
            "refs/heads/refs/heads/main",
            "refs/notes/x",
            "refs/heads/../../config",
            "refs/heads/a..b",
            "refs/heads/a.lock",
            "refs/heads/.git",
            "refs/heads/-x",
            "refs/heads/a b",
            "refs/heads/a\u{7f}",
            "config",
        ] {
            assert!(named(bad).kind().is_err(), "{bad}");
        }
    }
}
