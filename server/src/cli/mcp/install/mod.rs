//! `berth mcp install`: writes Berth into the configuration of an assistant's program.
//!
//! No token is written anywhere: the entry starts `berth mcp`, which reads the stored login, or names the URL, for which
//! the client asks by OAuth. What else is in the file stays as it is, comments among it; before the first change it is
//! copied beside itself; and a second run changes nothing.

mod client;
mod edit;

use std::{
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser};
use serde_json::json;

use crate::cli::{
    Session,
    contexts::{self, Contexts},
    failure::Failure,
    term,
};
use client::Kind;
use edit::Entry;

/// Largest configuration that is touched.
const MAX_BYTES: u64 = 16 << 20;

/// The command.
#[must_use]
pub fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let names = Kind::ALL.map(Kind::as_str);
    Command::new("install")
        .about("Write Berth into the configuration of an assistant's program")
        .arg(Arg::new("client").required(true).value_name("CLIENT").value_parser(PossibleValuesParser::new(names)))
        .arg(flag("print", "Only print what would be written, and where"))
        .arg(flag("http", "Let the client call the daemon's URL and ask for access by OAuth, instead of starting `berth mcp`"))
        .arg(flag("project", "Write into the project in this directory, instead of for all of the user's projects"))
        .arg(Arg::new("name").long("name").value_name("NAME").default_value("berth").help("Name of the entry"))
}

/// Runs the command. `bridge` are the flags that the bridge is to be started with.
///
/// # Errors
/// When the file cannot be read, is not understood, or cannot be written.
pub fn run(session: &Session, matches: &ArgMatches, bridge: &[String]) -> Result<ExitCode, Failure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let (client, name) = (text("client"), text("name"));
    let kind =
        Kind::parse(&client).ok_or_else(|| Failure::usage(format!("there is no client {client:?}")))?;
    if name.is_empty()
        || name.len() > 60
        || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    {
        return Err(Failure::usage("a name has 1 to 60 letters, digits, hyphens and underscores"));
    }
    let url = session.target()?.url;
    let (entry, note) = match matches.get_flag("http") {
        true => (Entry::Http { url: remote(kind, &url, bridge)? }, None),
        false => bridged(&url, bridge)?,
    };
    let environment = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    let path = match matches.get_flag("project") {
        true => kind.in_project(&std::env::current_dir()?),
        false => kind.of_user(&environment),
    };
    let path = path.map_err(Failure::usage)?;
    if matches.get_flag("print") {
        print(session, kind, &path, &kind.write("", &name, &entry).map_err(Failure::local)?);
        return Ok(ExitCode::SUCCESS);
    }
    let done = install(kind, &path, &name, &entry)?;
    told(session, kind, &done, note);
    Ok(ExitCode::SUCCESS)
}

/// What was done to a file.
#[derive(Debug, PartialEq, Eq)]
struct Done {
    path: PathBuf,
    changed: bool,
    backup: Option<PathBuf>,
}

/// The URL for clients that call by themselves.
fn remote(kind: Kind, url: &str, bridge: &[String]) -> Result<String, Failure> {
    if kind == Kind::ClaudeDesktop {
        return Err(Failure::local("Claude Desktop takes no URL in its configuration")
            .hint(format!("Add {url}/mcp under Settings, Connectors; or leave --http away.")));
    }
    let mut query = Vec::new();
    let mut flags = bridge.iter();
    while let Some(flag) = flags.next() {
        match flag.as_str() {
            "--read-only" => query.push("read_only=1".to_owned()),
            _ => query.extend(flags.next().map(|names| format!("tools={names}"))),
        }
    }
    let mark = if query.is_empty() { "" } else { "?" };
    Ok(format!("{url}/mcp{mark}{}", query.join("&")))
}

/// The entry that starts the bridge, and what its user has to know.
fn bridged(url: &str, bridge: &[String]) -> Result<(Entry, Option<String>), Failure> {
    let program = std::env::current_exe()?;
    let program = program.to_str().ok_or_else(|| Failure::local("the path of this program is no text"))?;
    let stored = Contexts::load(&contexts::path())?;
    let known = stored.contexts.iter().find(|(_, login)| login.url == url).map(|(name, _)| name.clone());
    let mut args = vec!["mcp".to_owned()];
    let note = match &known {
        Some(name) => {
            args.extend(["--context".to_owned(), name.clone()]);
            None
        }
        None => {
            args.extend(["--url".to_owned(), url.to_owned()]);
            Some(format!(
                "No login is stored for {url}: run `berth login {url}` before the client starts Berth."
            ))
        }
    };
    args.extend(bridge.iter().cloned());
    Ok((Entry::Program { command: program.to_owned(), args }, note))
}

fn install(kind: Kind, path: &Path, name: &str, entry: &Entry) -> Result<Done, Failure> {
    // Behind a link lies the file that somebody keeps elsewhere: that one is changed, and the link stays.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        Failure::local(format!("cannot {what} {}: {e}", path.display()))
    };
    let (before, mode) = match std::fs::metadata(&path) {
        Ok(there) if there.len() > MAX_BYTES => return Err(failed("change", &"it is too large")),
        Ok(there) => {
            let text = std::fs::read_to_string(&path).map_err(|e| failed("read", &e))?;
            (Some(text), there.permissions().mode() & 0o7777)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => (None, 0o600),
        Err(e) => return Err(failed("read", &e)),
    };
    let after = kind
        .write(before.as_deref().unwrap_or_default(), name, entry)
        .map_err(|why| failed("change", &why).hint("Correct the file, or add by hand what --print shows."))?;
    if before.as_ref() == Some(&after) {
        return Ok(Done { path, changed: false, backup: None });
    }
    let backup = match &before {
        Some(text) => {
            let mut copy = path.clone().into_os_string();
            copy.push(".before-berth");
            let copy = PathBuf::from(copy);
            // The copy is what was there before Berth first came, and stays that.
            if !copy.exists() {
                put(&copy, text, mode).map_err(|e| failed("copy", &e))?;
            }
            Some(copy)
        }
        None => None,
    };
    put(&path, &after, mode).map_err(|e| failed("write", &e))?;
    Ok(Done { path, changed: true, backup })
}

/// Writes a file in one step.
fn put(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn print(session: &Session, kind: Kind, path: &Path, text: &str) {
    if session.json {
        println!("{}", json!({ "client": kind.as_str(), "path": path, "text": text }));
        return;
    }
    eprintln!("{}:", path.display());
    println!("{}", term::safe(text.trim_end()));
}

fn told(session: &Session, kind: Kind, done: &Done, note: Option<String>) {
    if session.json {
        let backup = &done.backup;
        println!(
            "{}",
            json!({ "client": kind.as_str(), "path": done.path, "changed": done.changed, "backup": backup, "note": note })
        );
        return;
    }
    let path = done.path.display();
    match (done.changed, &done.backup) {
        (false, _) => println!("Berth is in {path} already."),
        (true, None) => println!("Wrote {path}. {}", kind.next()),
        (true, Some(backup)) => {
            println!("Wrote {path}; as it was before: {}. {}", backup.display(), kind.next())
        }
    }
    if let Some(note) = note {
        eprintln!("note: {note}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry::Program { command: "/usr/bin/berth".into(), args: vec!["mcp".into()] }
    }

    #[test]
    fn a_file_is_copied_once_and_a_second_run_changes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deep/config.json");
        let first = install(Kind::Cursor, &path, "berth", &entry()).unwrap();
        assert!(first.changed && first.backup.is_none());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = install(Kind::Cursor, &path, "berth", &entry()).unwrap();
        assert!(!again.changed && again.backup.is_none());

        let old = "{\n  // mine\n  \"mcpServers\": { \"other\": { \"command\": \"x\" } }\n}\n";
        std::fs::write(&path, old).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let linked = home.path().join("link.json");
        std::os::unix::fs::symlink(&path, &linked).unwrap();
        let done = install(Kind::Cursor, &linked, "berth", &entry()).unwrap();
        assert_eq!(std::fs::read_to_string(done.backup.unwrap()).unwrap(), old);
        assert!(std::fs::symlink_metadata(&linked).unwrap().is_symlink());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("// mine") && text.contains("\"other\"") && text.contains("/usr/bin/berth"),
            "{text}"
        );
        // The copy stays what it was before Berth came.
        install(Kind::Cursor, &path, "second", &entry()).unwrap();
        assert_eq!(std::fs::read_to_string(path.with_file_name("config.json.before-berth")).unwrap(), old);
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        for (kind, text) in [
            (Kind::Cursor, "{ \"mcpServers\": "),
            (Kind::Cursor, "{ \"mcpServers\": [] }"),
            (Kind::Codex, "= x"),
            (Kind::Codex, "mcp_servers = 1"),
        ] {
            let path = home.path().join("config");
            std::fs::write(&path, text).unwrap();
            assert!(install(kind, &path, "berth", &entry()).is_err(), "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_url_carries_what_the_bridge_would_have_been_told() {
        let bridge = ["--read-only", "--tools", "app_list,app_get"].map(String::from);
        let url = remote(Kind::Vscode, "https://b.example", &bridge).unwrap();
        assert_eq!(url, "https://b.example/mcp?read_only=1&tools=app_list,app_get");
        assert!(remote(Kind::ClaudeDesktop, "https://b.example", &[]).is_err());
    }
}
