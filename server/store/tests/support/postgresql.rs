//! A PostgreSQL server for tests: the one that BERTH_TEST_POSTGRES_URL names, or a private one.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Row};

/// A server in which tests make databases of their own.
pub struct Server {
    url: String,
    private: Option<Private>,
}

struct Private {
    child: std::process::Child,
    _dir: tempfile::TempDir,
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// The server, or why there is none.
    pub async fn start() -> Result<Self, String> {
        if let Ok(url) = std::env::var("BERTH_TEST_POSTGRES_URL") {
            return Ok(Self { url: url.trim_end_matches('/').to_owned(), private: None });
        }
        let bin = binaries().ok_or("no PostgreSQL")?;
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let data = dir.path().join("data");
        std::fs::create_dir(&data).map_err(|e| e.to_string())?;
        // The server refuses to run as root, so it gets the directory and runs as its own user.
        let as_root = rustix::process::getuid().is_root();
        if as_root {
            for path in [dir.path(), &data] {
                run(Command::new("chown").arg("postgres").arg(path))?;
            }
        }
        let initdb = ["-U", "berth", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"];
        run(command(as_root, &bin.join("initdb")).args(initdb).arg("-D").arg(&data))?;
        let port = free_port();
        let child = command(as_root, &bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-p")
            .arg(port.to_string())
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| e.to_string())?;
        let private = Private { child, _dir: dir };
        let server = Self { url: format!("postgres://berth@127.0.0.1:{port}"), private: Some(private) };
        server.wait().await.map(|()| server)
    }

    async fn wait(&self) -> Result<(), String> {
        sqlx::any::install_default_drivers();
        let mut last = String::new();
        for _ in 0..100 {
            match sqlx::any::AnyPoolOptions::new().connect(&format!("{}/postgres", self.url)).await {
                Ok(pool) => {
                    pool.close().await;
                    return Ok(());
                }
                Err(e) => last = e.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("PostgreSQL did not start: {last}"))
    }

    /// URL of a new, empty database.
    pub async fn database(&self, name: &str) -> String {
        let pool = sqlx::any::AnyPoolOptions::new().connect(&format!("{}/postgres", self.url)).await.unwrap();
        let name = format!("berth_test_{}_{name}", std::process::id());
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&pool).await.unwrap();
        let version: String =
            sqlx::query("SHOW server_version").fetch_one(&pool).await.unwrap().try_get(0).unwrap();
        assert!(!version.is_empty());
        pool.close().await;
        format!("{}/{name}", self.url)
    }

    /// Removes a database that a test made.
    pub async fn remove(&self, url: &str) {
        if self.private.is_some() {
            return;
        }
        let name = url.rsplit('/').next().unwrap();
        let pool = sqlx::any::AnyPoolOptions::new().connect(&format!("{}/postgres", self.url)).await.unwrap();
        let sql = format!("DROP DATABASE {name} WITH (FORCE)");
        sqlx::query(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        pool.close().await;
    }
}

fn binaries() -> Option<PathBuf> {
    (15..=20)
        .rev()
        .map(|v| PathBuf::from(format!("/usr/lib/postgresql/{v}/bin")))
        .find(|d| d.join("initdb").exists())
}

fn command(as_root: bool, program: &Path) -> Command {
    if as_root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
        command.current_dir("/");
        command
    } else {
        Command::new(program)
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let out = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr)))
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
