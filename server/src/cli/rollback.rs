//! `berth rollback`: back to an earlier release, followed to its end.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Map, Value};

use super::{Session, block_on, environment_arg, failure::Failure, progress};

/// The command.
#[must_use]
pub fn command() -> Command {
    Command::new("rollback")
        .about("Put an earlier release of an app back into service")
        .arg(Arg::new("app").value_name("APP").required(true))
        .arg(
            Arg::new("to")
                .long("to")
                .value_name("N")
                .value_parser(value_parser!(i64).range(1..))
                .help("Number of the release. Default: the one that served before"),
        )
        .arg(environment_arg())
}

/// Runs the command.
///
/// # Errors
/// Whatever the daemon answers.
pub fn run(session: &Session, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let mut input = Map::new();
    input.insert("app".into(), matches.get_one::<String>("app").cloned().unwrap_or_default().into());
    if let Some(environment) = matches.get_one::<String>("environment") {
        input.insert("environment".into(), environment.clone().into());
    }
    if let Some(to) = matches.get_one::<i64>("to") {
        input.insert("to".into(), Value::from(*to));
    }
    input.insert("idempotency_key".into(), uuid::Uuid::new_v4().to_string().into());
    block_on(async {
        let client = session.client()?;
        progress::follow(session, &client, session.tool("release_rollback")?, input).await
    })
}
