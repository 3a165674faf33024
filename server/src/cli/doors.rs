//! The hand-made commands: each does what one tool alone cannot. One line per command, in both directions.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use clap_complete::Shell;

use super::{
    Session, deploy, failure::Failure, login, logs, manifest, mcp, open, rollback, serve, tool, tree, upgrade,
};

type Outcome = Result<ExitCode, Failure>;

/// The commands, in the order in which help lists them.
#[must_use]
pub fn commands() -> Vec<Command> {
    vec![
        deploy::command(),
        logs::command(),
        rollback::command(),
        open::command(),
        open::status_command(),
        manifest::command(),
        login::command(),
        login::logout_command(),
        login::contexts_command(),
        mcp::command(),
        serve::command(),
        serve::config_command(),
        upgrade::command(),
        tool::command(),
        Command::new("completions")
            .about("Print a completion script for a shell")
            .arg(Arg::new("shell").required(true).value_parser(clap::value_parser!(Shell))),
        Command::new("version").about("Print the versions of this program and of the daemon"),
    ]
}

/// Runs the hand-made command of this name; none if it is a generated one.
pub fn run(name: &str, session: &Session, matches: &ArgMatches) -> Option<Outcome> {
    Some(match name {
        "deploy" => deploy::run(session, matches),
        "logs" => logs::run(session, matches),
        "rollback" => rollback::run(session, matches),
        "open" => open::run(session, matches),
        "status" => open::status(session),
        "init" => manifest::run(matches),
        "login" => login::run(session, matches),
        "logout" => login::logout(matches),
        "contexts" => login::contexts(session, matches),
        "mcp" => mcp::run(session, matches),
        "serve" => serve::run(matches),
        "config" => serve::config(session, matches),
        "upgrade" => upgrade::run(session),
        "tool" => tool::run(session, matches),
        "completions" => completions(session, matches),
        "version" => version(session),
        _ => return None,
    })
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of every command")]
fn completions(session: &Session, matches: &ArgMatches) -> Outcome {
    if let Some(shell) = matches.get_one::<Shell>("shell") {
        clap_complete::generate(
            *shell,
            &mut tree::command(&session.registry),
            "berth",
            &mut std::io::stdout(),
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn version(session: &Session) -> Outcome {
    let mine = env!("CARGO_PKG_VERSION");
    let daemon = super::block_on(async {
        let client = session.client()?;
        let output = client.call(session.tool("platform_status")?, serde_json::Map::new()).await?;
        Ok(output["version"].as_str().map(str::to_owned))
    });
    let daemon = daemon.ok().flatten();
    if session.json {
        println!("{}", serde_json::json!({ "berth": mine, "daemon": daemon }));
    } else {
        println!("berth {mine}");
        // Without a daemon or a token, its own version is still what was asked for.
        if let Some(daemon) = daemon {
            println!("daemon {daemon}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
