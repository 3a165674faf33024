//! `berth login`, `logout` and `contexts`: which daemons this user knows, and as whom.

use std::{
    io::{IsTerminal as _, Read as _},
    process::ExitCode,
};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, json};

use super::{
    Session, block_on,
    client::{Client, Target, checked, local_daemon},
    contexts::{self, Contexts, Login},
    failure::Failure,
};

/// `berth login`.
#[must_use]
pub fn command() -> Command {
    Command::new("login")
        .about("Check and store a token for a daemon")
        .arg(Arg::new("to").value_name("URL").help("URL of the daemon. Default: the one on this machine"))
        .arg(
            Arg::new("name")
                .long("name")
                .value_name("NAME")
                .help("Name to store it under. Default: the host"),
        )
        .arg(
            Arg::new("token-stdin")
                .long("token-stdin")
                .action(ArgAction::SetTrue)
                .help("Read the token from standard input"),
        )
}

/// `berth logout`.
#[must_use]
pub fn logout_command() -> Command {
    Command::new("logout")
        .about("Forget a stored token")
        .arg(Arg::new("name").value_name("NAME").help("Name of the login. Default: the current one"))
}

/// `berth contexts`.
#[must_use]
pub fn contexts_command() -> Command {
    Command::new("contexts")
        .about("List the stored logins, or choose the current one")
        .arg(Arg::new("use").long("use").value_name("NAME").help("Make this login the current one"))
}

/// Runs `berth login`.
///
/// # Errors
/// When the daemon cannot be reached or does not take the token.
pub fn run(session: &Session, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let url = match text("to").or_else(|| text("url")) {
        Some(url) => checked(&url)?,
        None => local_daemon(),
    };
    let token = token(matches)?;
    block_on(async {
        let client = Client::new(Target { url: url.clone(), token: Some(token.clone()) })?;
        // Any read tells whether the token is good; this one is small.
        client.call(session.tool("project_list")?, Map::new()).await.map(drop)
    })?;
    let path = contexts::path();
    let mut stored = Contexts::load(&path)?;
    let name = text("name").unwrap_or_else(|| host(&url));
    stored.contexts.insert(name.clone(), Login { url: url.clone(), token });
    stored.current = Some(name.clone());
    stored.save(&path)?;
    if session.json {
        println!("{}", json!({ "context": name, "url": url }));
    } else {
        println!("Logged in to {url} as {name:?}; stored in {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn token(matches: &ArgMatches) -> Result<String, Failure> {
    let token = if matches.get_flag("token-stdin") {
        let mut text = String::new();
        std::io::stdin().take(4096).read_to_string(&mut text)?;
        text
    } else if let Some(token) = matches.get_one::<String>("token") {
        token.clone()
    } else if std::io::stdin().is_terminal() {
        rpassword::prompt_password("Token: ")?
    } else {
        return Err(Failure::usage(
            "there is no terminal to ask for the token; pipe it in with --token-stdin",
        ));
    };
    let token = token.trim();
    if token.is_empty() {
        return Err(Failure::usage("the token is empty"));
    }
    Ok(token.to_owned())
}

fn host(url: &str) -> String {
    let host = url.parse::<reqwest::Url>().ok().and_then(|u| u.host_str().map(str::to_owned));
    host.unwrap_or_else(|| "default".into())
}

/// Runs `berth logout`.
///
/// # Errors
/// When there is no such login.
pub fn logout(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let path = contexts::path();
    let mut stored = Contexts::load(&path)?;
    let name = matches.get_one::<String>("name").cloned().or(stored.current.clone());
    let name = name.ok_or_else(|| Failure::usage("nobody is logged in"))?;
    if stored.contexts.remove(&name).is_none() {
        return Err(Failure::usage(format!("there is no stored login {name:?}")));
    }
    if stored.current.as_ref() == Some(&name) {
        stored.current = None;
    }
    stored.save(&path)?;
    println!("Forgot {name:?}. The token itself still works; `berth token revoke` ends it.");
    Ok(ExitCode::SUCCESS)
}

/// Runs `berth contexts`.
///
/// # Errors
/// When there is no such login.
pub fn contexts(session: &Session, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let path = contexts::path();
    let mut stored = Contexts::load(&path)?;
    if let Some(name) = matches.get_one::<String>("use") {
        if !stored.contexts.contains_key(name) {
            return Err(Failure::usage(format!("there is no stored login {name:?}")));
        }
        stored.current = Some(name.clone());
        stored.save(&path)?;
    }
    let list: Vec<_> = stored
        .contexts
        .iter()
        .map(|(name, login)| json!({ "name": name, "url": login.url, "current": stored.current.as_ref() == Some(name) }))
        .collect();
    session.show(&json!({ "contexts": list }), &serde_json::Value::Null);
    Ok(ExitCode::SUCCESS)
}
