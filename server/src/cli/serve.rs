//! `berth serve` and `berth config`: the flags of the daemon, one per setting.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::{Arg, ArgMatches, Command};

use super::{Session, failure::Failure};
use crate::{
    config::{Config, setting::SETTINGS, show},
    serve::{self, Start},
};

/// `berth serve`.
#[must_use]
pub fn command() -> Command {
    with_settings(Command::new("serve").about("Run the daemon")).arg(
        Arg::new("token-file").long("token-file").value_name("PATH").help(
            "At the first start, write the admin token to this file (mode 0600) instead of printing it",
        ),
    )
}

/// `berth config`.
#[must_use]
pub fn config_command() -> Command {
    with_settings(
        Command::new("config").about("Print the daemon's configuration and where each value comes from"),
    )
}

fn with_settings(command: Command) -> Command {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("Configuration file. Default: berth.toml in the data directory, else /etc/berth/berth.toml");
    SETTINGS.iter().fold(command.arg(file), |command, setting| {
        let default = if setting.default.is_empty() {
            String::new()
        } else {
            format!(" [default: {}]", setting.default)
        };
        command.arg(
            Arg::new(setting.key)
                .long(setting.flag())
                .value_name("VALUE")
                .help(format!("{}{default} [{}]", setting.help, setting.env()))
                .help_heading("Settings"),
        )
    })
}

fn load(matches: &ArgMatches) -> Result<Config, Failure> {
    let flags: BTreeMap<&'static str, String> =
        SETTINGS.iter().filter_map(|s| Some((s.key, matches.get_one::<String>(s.key)?.clone()))).collect();
    let file = matches.get_one::<String>("config").map(PathBuf::from);
    Config::load(&flags, file.as_deref()).map_err(|e| Failure::Local {
        text: e.to_string(),
        hint: Some("`berth serve --help` lists every setting.".into()),
    })
}

/// Runs `berth serve`.
///
/// # Errors
/// When the daemon cannot start.
pub fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let token_file = matches.get_one::<String>("token-file").map(PathBuf::from);
    serve::run(Start { config: load(matches)?, token_file })
}

/// Runs `berth config`.
///
/// # Errors
/// When the configuration is not valid.
pub fn config(session: &Session, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let config = load(matches)?;
    if session.json {
        println!("{}", serde_json::to_string_pretty(&show::json(&config)).unwrap_or_default());
    } else {
        print!("{}", show::text(&config));
    }
    Ok(ExitCode::SUCCESS)
}
