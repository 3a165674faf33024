//! `berth logs`: what an app prints, as it printed it.

use std::process::ExitCode;

use berth_schemas::log::{Level, LogLine};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use futures_util::StreamExt as _;
use serde_json::{Map, Value};

use super::{Session, block_on, client::Client, environment_arg, failure::Failure, sse::Event, term};

/// The command.
#[must_use]
pub fn command() -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("logs")
        .about("Show what an app prints")
        .arg(Arg::new("app").value_name("APP").required(true))
        .arg(
            Arg::new("follow")
                .short('f')
                .long("follow")
                .action(ArgAction::SetTrue)
                .help("Go on until interrupted"),
        )
        .arg(environment_arg())
        .arg(text("since", "AGE", "Not before this: 15m, 2h, 7d, or RFC 3339"))
        .arg(text("level", "LEVEL", "Only this level or graver: debug, info, warn, error"))
        .arg(text("contains", "TEXT", "Only lines that contain this"))
        .arg(
            text("limit", "N", "At most this many lines")
                .short('n')
                .value_parser(value_parser!(u32).range(1..=1000)),
        )
        .arg(
            Arg::new("timestamps")
                .short('t')
                .long("timestamps")
                .action(ArgAction::SetTrue)
                .help("Show when each line was printed"),
        )
}

/// Runs the command.
///
/// # Errors
/// Whatever the daemon answers.
pub fn run(session: &Session, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let mut input = Map::new();
    for name in ["app", "environment", "since", "level", "contains"] {
        if let Some(text) = matches.get_one::<String>(name) {
            input.insert(name.into(), text.clone().into());
        }
    }
    if let Some(limit) = matches.get_one::<u32>("limit") {
        input.insert("limit".into(), (*limit).into());
    }
    let print = Printer { json: session.json, timestamps: matches.get_flag("timestamps") };
    block_on(async {
        let client = session.client()?;
        if matches.get_flag("follow") {
            tokio::select! {
                done = follow(session, &client, input, &print) => done,
                // Asked for: the end of following is not an error.
                _ = tokio::signal::ctrl_c() => Ok(ExitCode::SUCCESS),
            }
        } else {
            let page = client.call(session.tool("log_search")?, input).await?;
            print.page(&page);
            Ok(ExitCode::SUCCESS)
        }
    })
}

/// Follows, and takes up the thread again after the last line seen when the connection breaks.
async fn follow(
    session: &Session,
    client: &Client,
    mut input: Map<String, Value>,
    print: &Printer,
) -> Result<ExitCode, Failure> {
    let tool = session.tool("log_search")?;
    let mut silent = 0;
    loop {
        let mut last = None;
        let broken = match client.follow(tool, input.clone()).await {
            Ok(mut events) => loop {
                match events.next().await {
                    Some(Ok(event)) => {
                        if let Some(id) = print.event(&event)? {
                            last = Some(id);
                        }
                    }
                    Some(Err(failure)) => break Some(failure),
                    None => break None,
                }
            },
            Err(failure @ Failure::Unreachable { .. }) => Some(failure),
            Err(failure) => return Err(failure),
        };
        if let Some(id) = last {
            input.insert("after".into(), id.into());
            silent = 0;
        }
        silent += 1;
        if silent > 10 {
            return Err(broken.unwrap_or_else(|| Failure::local("the daemon ended the stream")));
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

struct Printer {
    json: bool,
    timestamps: bool,
}

impl Printer {
    fn page(&self, page: &Value) {
        for line in page["lines"].as_array().into_iter().flatten() {
            self.line(line);
        }
    }

    /// Prints an event; returns the id to read on after, if it tells one.
    fn event(&self, event: &Event) -> Result<Option<i64>, Failure> {
        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        match event.name.as_str() {
            "log_line" => {
                self.line(&data);
                Ok(data["id"].as_i64())
            }
            "result" => Ok(data["next_after"].as_i64()),
            "problem" => match serde_json::from_value::<berth_schemas::Problem>(data) {
                Ok(p) if p.code == berth_schemas::Code::Interrupted => Ok(None),
                Ok(problem) => Err(problem.into()),
                Err(_) => Ok(None),
            },
            _ => Ok(None),
        }
    }

    fn line(&self, value: &Value) {
        if self.json {
            println!("{value}");
            return;
        }
        let Ok(line) = serde_json::from_value::<LogLine>(value.clone()) else { return };
        let style = match line.level {
            Level::Error => term::BAD,
            Level::Warn => term::WARN,
            Level::Debug => term::MUTED,
            Level::Info => anstyle::Style::new(),
        };
        let at = if self.timestamps {
            format!("{}{}{:#} ", term::MUTED, line.at, term::MUTED)
        } else {
            String::new()
        };
        anstream::println!(
            "{at}{m}#{}.{}{m:#} {style}{}{style:#}",
            line.release,
            line.replica,
            term::line(&line.text.0),
            m = term::MUTED
        );
    }
}
