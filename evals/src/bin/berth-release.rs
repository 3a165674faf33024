//! The release step: builds `berth`, packs it with its licences, README and shell completions, and writes what
//! `deploy.sh` fetches, and `deploy.sh` itself beside it. `SOURCE_DATE_EPOCH` sets the time of the archive's entries (default 0).

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use berth_evals::{program::program, release::Release};
use clap::Parser;

/// Makes berth-VERSION-ARCH-linux.tar.gz, its .sha256 and latest.json, with deploy.sh beside them.
#[derive(Parser)]
struct Args {
    /// Pack this program instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Version of the release; default: what the program says of itself.
    #[arg(long = "release-version")]
    version: Option<String>,
    /// Processor of the program, as `uname -m` names it.
    #[arg(long, default_value = env::consts::ARCH)]
    arch: String,
    /// The checkout: where licences and README are, and what is built.
    #[arg(long, default_value = ".")]
    source: PathBuf,
    /// Folder to write to.
    #[arg(long, default_value = "dist")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match release(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn release(args: &Args) -> anyhow::Result<()> {
    let binary = match &args.binary {
        Some(path) => path.clone(),
        None => build(&args.source)?,
    };
    let version = match &args.version {
        Some(version) => version.trim_start_matches('v').to_owned(),
        None => version_of(&binary)?,
    };
    let mut files = BTreeMap::from([("berth".to_owned(), read(&binary)?)]);
    for name in ["LICENSE-APACHE", "LICENSE-MIT", "README.md"] {
        files.insert(name.to_owned(), read(&args.source.join(name))?);
    }
    files.extend(completions(&binary));
    let epoch = match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            text.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds"))?
        }
        Err(_) => 0,
    };
    let written = Release { version, arch: args.arch.clone(), epoch, level: 9, files }.write(&args.out)?;
    let installer = args.source.join("deploy.sh");
    fs::copy(&installer, args.out.join("deploy.sh"))
        .with_context(|| format!("cannot copy {}", installer.display()))?;
    println!("{}  {} bytes  sha256 {}", written.archive.display(), written.bytes, written.sha256);
    Ok(())
}

/// Builds the release binary and asks cargo where it put it.
fn build(source: &Path) -> anyhow::Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = program(cargo);
    command.current_dir(source);
    command.args(["build", "--release", "--locked", "-p", "berth", "--bin", "berth"]);
    command.args(["--message-format", "json-render-diagnostics"]).stderr(std::process::Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "the build failed; the compiler's messages are above");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "berth")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .context("cargo named no program; is the package berth in this checkout?")
}

fn version_of(binary: &Path) -> anyhow::Result<String> {
    let output = program(absolute(binary)?).arg("--version").output();
    let output =
        output.with_context(|| format!("cannot run {}; give --release-version", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.strip_prefix("berth ").and_then(|rest| rest.split_whitespace().next());
    version.map(str::to_owned).with_context(|| format!("{} --version said {text:?}", binary.display()))
}

/// The completions that the program prints; one that cannot run here (another processor) ships without.
fn completions(binary: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = [("bash", "berth.bash"), ("zsh", "_berth"), ("fish", "berth.fish")];
    let printed = names.into_iter().filter_map(|(shell, file)| {
        let output = program(absolute(binary).ok()?).args(["completions", shell]).output().ok()?;
        let good = output.status.success() && !output.stdout.is_empty();
        if !good {
            eprintln!("note: no completions for {shell}: the program printed none");
        }
        good.then(|| (format!("completions/{file}"), output.stdout))
    });
    printed.collect()
}

/// A relative path without a slash would be looked up on the PATH.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("no such path: {}", path.display()))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
