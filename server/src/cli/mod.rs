//! The command line: parses, connects, prints. What it can do is in [`tree`]; what the generated commands do is
//! one call of their tool.

pub mod client;
pub mod contexts;
pub mod deploy;
pub mod doors;
pub mod download;
pub mod failure;
pub mod input;
pub mod login;
pub mod logs;
pub mod manifest;
pub mod mcp;
pub mod open;
pub mod patience;
pub mod progress;
pub mod render;
pub mod rollback;
pub mod serve;
pub mod sse;
pub mod term;
pub mod tool;
pub mod tree;
pub mod upgrade;

use std::{ffi::OsString, process::ExitCode};

use berth_schemas::Timestamp;
use berth_tools::{Registry, Tool};
use clap::{Arg, ArgMatches};
use serde_json::Value;

use client::{Client, Target};
use failure::Failure;

/// What a command works with.
pub struct Session {
    /// Every capability.
    pub registry: Registry,
    /// Print JSON.
    pub json: bool,
    /// Arguments of the whole command line, for connection flags.
    matches: ArgMatches,
}

impl Session {
    /// A connection to the daemon that the flags name.
    ///
    /// # Errors
    /// When the flags name none that makes sense.
    pub fn client(&self) -> Result<Client, Failure> {
        let client = Client::new(self.target()?)?;
        Ok(if self.json { client } else { client.told() })
    }

    /// Where to connect.
    ///
    /// # Errors
    /// When the flags name nothing that makes sense.
    pub fn target(&self) -> Result<Target, Failure> {
        Target::find(&self.matches)
    }

    /// The tool of this name, for front doors.
    ///
    /// # Errors
    /// When this version has no such tool.
    pub fn tool(&self, name: &str) -> Result<&Tool, Failure> {
        self.registry.get(name).ok_or_else(|| {
            let known: Vec<String> = self.registry.tools().iter().map(|t| t.spec.name.to_owned()).collect();
            let near = berth_schemas::error::nearest(name, &known);
            Failure::usage(format!("there is no tool {name:?}; nearest: {}", near.join(", ")))
        })
    }

    /// Prints a tool's output.
    pub fn show(&self, output: &Value, schema: &Value) {
        if self.json {
            anstream::println!("{}", serde_json::to_string_pretty(output).unwrap_or_default());
        } else {
            anstream::print!("{}", render::output(output, schema, Timestamp::now()));
        }
    }
}

/// Runs the program with these arguments.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // One provider for all TLS of the process; a second call can only mean that it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let registry = berth_tools::registry();
    let matches = match tree::command(&registry).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let json = matches.get_flag("json");
    let session = Session { registry, json, matches: matches.clone() };
    match dispatch(session, &matches) {
        Ok(code) => code,
        Err(failure) => {
            failure.print(json);
            failure.exit_code()
        }
    }
}

fn dispatch(session: Session, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let Some((name, sub)) = matches.subcommand() else { return Err(Failure::usage("no command given")) };
    if let Some(done) = doors::run(name, &session, sub) {
        return done;
    }
    let Some((verb, arguments)) = sub.subcommand() else { return Err(Failure::usage("no command given")) };
    let tool = tree::find(&session.registry, name, verb).ok_or_else(|| Failure::usage("no such command"))?;
    let input = input::from_matches(tool, arguments)?;
    block_on(async {
        let client = session.client()?;
        let output = client.call(tool, input).await?;
        match download::wanted(tool, arguments) {
            Some(file) => download::keep(&client, &output, file).await?,
            None => session.show(&output, &tool.output),
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The environment of an app that a command is about.
#[must_use]
pub fn environment_arg() -> Arg {
    Arg::new("environment")
        .long("environment")
        .short('e')
        .value_name("NAME")
        .help("Environment of the app, such as staging. Default: production")
}

/// Runs a command that talks to the daemon; a small runtime is enough.
///
/// # Errors
/// Whatever the command ends with.
pub fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}
