//! Docker, by its own command line: the app's image, and what a run leaves behind.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use berth_evals::process;
use serde::Serialize;

/// Whether the engine answers.
pub(crate) async fn is_there() -> bool {
    docker(&["version", "--format", "{{.Server.Version}}"]).await.is_ok()
}

/// Standard output of `docker …`, without blocking the runtime that the load runs on.
pub(crate) async fn docker(args: &[&str]) -> Result<String> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let run = move || process::output("docker", &args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await?
}

/// An image with the app, removed with this value.
#[derive(Debug)]
pub(crate) struct Image(String);

impl Image {
    /// Builds it from the program beside this one and the libraries that it was linked with: it needs no other image,
    /// so it is the same on every machine.
    pub(crate) async fn build() -> Result<Self> {
        let own = std::env::current_exe()?;
        let app = own.with_file_name("berth-soak-app");
        ensure!(app.is_file(), "{} is not built: cargo build -p berth-evals --bins", app.display());
        let folder = tempfile::tempdir()?;
        copy_with_libraries(&app, folder.path())?;
        let name = format!("berth-soak-app:{}-{}", std::process::id(), nanos());
        let path = folder.path().display().to_string();
        docker(&["build", "--quiet", "--tag", &name, &path]).await.context("building the app's image")?;
        Ok(Self(name))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // It stays where containers of a killed run still use it; nothing depends on it.
        let _ = process::output("docker", &["rmi", "--force", &self.0]);
    }
}

fn nanos() -> u128 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos())
}

fn copy_with_libraries(app: &Path, folder: &Path) -> Result<()> {
    let app = app.display().to_string();
    std::fs::copy(&app, folder.join("app"))?;
    let needed = libraries(&process::output("ldd", &[&app])?);
    let loader =
        needed.iter().find(|path| path.to_string_lossy().contains("/ld-")).context("no loader in ldd")?;
    for library in &needed {
        let name = library.file_name().context("a library without a name")?;
        std::fs::copy(library, folder.join(name)).with_context(|| library.display().to_string())?;
    }
    let loader = loader.file_name().unwrap_or_default().display();
    let dockerfile = format!(
        "FROM scratch\nCOPY . /soak/\nENTRYPOINT [\"/soak/{loader}\", \"--library-path\", \"/soak\", \"/soak/app\"]\n\
         EXPOSE 8080\n"
    );
    Ok(std::fs::write(folder.join("Dockerfile"), dockerfile)?)
}

/// Paths in what ldd prints: `libc.so.6 => /lib/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn libraries(printed: &str) -> Vec<PathBuf> {
    let path_of = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    printed.lines().filter_map(path_of).collect()
}

/// What there is of something in Docker.
#[derive(Debug, Clone, Copy, Default, Serialize, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) running: usize,
    pub(crate) stopped: usize,
    pub(crate) images: usize,
    pub(crate) networks: usize,
}

/// What carries this label.
pub(crate) async fn holdings(label: &str) -> Result<Holdings> {
    let filter = format!("label={label}");
    let count = async |args: &[&str]| -> Result<usize> {
        let text = docker(&[args, &["--filter", &filter]].concat()).await?;
        let mut lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        lines.sort_unstable();
        lines.dedup();
        Ok(lines.len())
    };
    let running = count(&["ps", "--quiet"]).await?;
    Ok(Holdings {
        running,
        stopped: count(&["ps", "--all", "--quiet"]).await?.saturating_sub(running),
        images: count(&["images", "--quiet"]).await?,
        networks: count(&["network", "ls", "--quiet"]).await?,
    })
}

/// Removes everything that carries a label, when dropped.
#[derive(Debug)]
pub(crate) struct Sweep(String);

impl Sweep {
    pub(crate) fn of(label: String) -> Self {
        Self(label)
    }

    pub(crate) fn label(&self) -> &str {
        &self.0
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        let filter = format!("label={}", self.0);
        for (list, remove) in [
            (["ps", "--all", "--quiet"].as_slice(), ["rm", "--force", "--volumes"].as_slice()),
            (&["images", "--quiet"], &["rmi", "--force"]),
            (&["network", "ls", "--quiet"], &["network", "rm"]),
        ] {
            let found =
                process::output("docker", &[list, &["--filter", &filter]].concat()).unwrap_or_default();
            for id in found.lines().filter(|line| !line.is_empty()) {
                // An image with two names is listed twice; the second removal finds nothing.
                let _ = process::output("docker", &[remove, &[id]].concat());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let printed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(printed), paths.map(PathBuf::from));
    }
}
