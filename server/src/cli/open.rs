//! `berth open` and `berth status`: where an app is, and how everything is.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value, json};

use super::{Session, block_on, environment_arg, failure::Failure};

/// `berth open`.
#[must_use]
pub fn command() -> Command {
    Command::new("open")
        .about("Print an app's URL, and open it where there is a display")
        .arg(Arg::new("app").value_name("APP").required(true))
        .arg(environment_arg())
        .arg(Arg::new("print").long("print").action(ArgAction::SetTrue).help("Only print it"))
}

/// `berth status`.
#[must_use]
pub fn status_command() -> Command {
    Command::new("status").about("Show what runs and what needs attention")
}

/// Runs `berth open`.
///
/// # Errors
/// Whatever the daemon answers.
pub fn run(session: &Session, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let mut input = Map::new();
    input.insert("app".into(), matches.get_one::<String>("app").cloned().unwrap_or_default().into());
    if let Some(environment) = matches.get_one::<String>("environment") {
        input.insert("environment".into(), environment.clone().into());
    }
    let app = block_on(async { session.client()?.call(session.tool("app_get")?, input).await })?;
    let url = app["urls"][0].as_str().unwrap_or_default();
    if session.json {
        println!("{}", json!({ "url": url }));
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", super::term::safe(url));
    let display = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|v| std::env::var_os(v).is_some());
    let is_web = url.starts_with("http://") || url.starts_with("https://");
    if display && is_web && !matches.get_flag("print") {
        #[expect(clippy::disallowed_methods, reason = "one fixed program, by argv, with one checked URL")]
        let opener = std::process::Command::new("xdg-open").arg(url).spawn();
        if let Err(error) = opener {
            eprintln!("note: xdg-open did not start: {error}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `berth status`.
///
/// # Errors
/// Whatever the daemon answers.
pub fn status(session: &Session) -> Result<ExitCode, Failure> {
    block_on(async {
        let client = session.client()?;
        let (status_tool, list_tool) = (session.tool("platform_status")?, session.tool("app_list")?);
        let status = client.call(status_tool, Map::new()).await?;
        let apps = client.call(list_tool, Map::from_iter([("limit".to_owned(), Value::from(100))])).await?;
        if session.json {
            session.show(&json!({ "platform": status, "apps": apps["apps"] }), &Value::Null);
        } else {
            session.show(&status, &status_tool.output);
            println!();
            session.show(&apps, &list_tool.output);
        }
        // Scripts can ask whether all is well.
        Ok(if status["healthy"] == Value::Bool(true) { ExitCode::SUCCESS } else { ExitCode::from(1) })
    })
}
