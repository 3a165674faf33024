//! `berth tool`: any tool raw, by its name, with JSON in and JSON out.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value, json};

use super::{Session, block_on, failure::Failure, input, tree};

/// The command.
#[must_use]
pub fn command() -> Command {
    Command::new("tool")
        .about("Call any tool by its name with JSON, or list them all")
        .arg(
            Arg::new("name")
                .value_name("NAME")
                .default_value("list")
                .help("Name of the tool; \"list\" shows all"),
        )
        .arg(
            Arg::new("json-input")
                .long("json-input")
                .value_name("JSON")
                .help("Its input: JSON, @FILE or - for standard input"),
        )
}

/// Runs the command.
///
/// # Errors
/// Whatever the daemon answers.
pub fn run(session: &Session, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("name").map_or("list", String::as_str);
    if name == "list" {
        return Ok(list(session));
    }
    let tool = session.tool(name)?;
    let input = match matches.get_one::<String>("json-input") {
        Some(text) => parse(text)?,
        None => Map::new(),
    };
    block_on(async {
        let output = session.client()?.call(tool, input).await?;
        println!("{}", serde_json::to_string_pretty(&output).unwrap_or_default());
        Ok(ExitCode::SUCCESS)
    })
}

fn parse(text: &str) -> Result<Map<String, Value>, Failure> {
    let text = match text.strip_prefix('@').or_else(|| (text == "-").then_some("-")) {
        Some(path) => input::read(path).map_err(|e| Failure::usage(format!("cannot read {path}: {e}")))?,
        None => text.to_owned(),
    };
    serde_json::from_str(&text).map_err(|e| Failure::usage(format!("--json-input is not a JSON object: {e}")))
}

fn list(session: &Session) -> ExitCode {
    let tools: Vec<Value> = session
        .registry
        .tools()
        .iter()
        .map(|t| {
            json!({
                "name": t.spec.name, "title": t.spec.title, "scope": t.spec.scope.as_str(),
                "command": tree::usage(t), "route": format!("{} {}", t.spec.method.as_str(), t.spec.path),
            })
        })
        .collect();
    session.show(&json!({ "tools": tools }), &Value::Null);
    ExitCode::SUCCESS
}
