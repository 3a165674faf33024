//! nginx as the one that switches, in the way that its users do blue-green: start the new container, wait until it is
//! healthy, write its address into the configuration, reload, wait a while, stop the old container.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use berth_evals::{
    process::{self, Program},
    program::program,
};

use crate::{
    certificate::{Certificate, free_address},
    clients::Door,
    docker::{self, Holdings, Image, Sweep, docker},
    side::{APP, HOST, PATIENT},
};

/// A running nginx with the containers behind it.
#[derive(Debug)]
pub(crate) struct Nginx {
    pub(crate) door: Door,
    process: Program,
    directory: tempfile::TempDir,
    certificate: Certificate,
    image: String,
    network: String,
    /// Dropped after nginx.
    sweep: Sweep,
    pause: Duration,
    /// Container and address of both apps.
    live: Option<(String, String)>,
    patient: Option<(String, String)>,
}

impl Nginx {
    /// Whether it is installed; it is tried to install it where apt-get can.
    pub(crate) async fn is_there() -> bool {
        let found = || process::output("nginx", &["-v"]).is_ok();
        let install = move || {
            found() || {
                println!("nginx is not installed; trying apt-get install nginx-light");
                process::output("apt-get", &["install", "-y", "nginx-light"]).is_ok() && found()
            }
        };
        tokio::task::spawn_blocking(install).await.unwrap_or(false)
    }

    /// Starts nginx; until something is deployed it answers 502.
    pub(crate) async fn start(image: &Image, pause: Duration) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("berth-soak-nginx-").tempdir()?;
        let certificate = Certificate::make(directory.path(), &[HOST, "patient.localhost"])?;
        let (http, https) = (free_address()?, free_address()?);
        let door = Door::new(http, https, HOST, &certificate.pem)?;
        let sweep = Sweep::of(format!("berth-soak.nginx={}-{}", std::process::id(), http.port()));
        let config = config_file(&directory);
        write_config(&directory, &certificate, http, https, None, None)?;
        let mut command = program("nginx");
        command.arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Program::start(&mut command)?;
        process.wait_for(http).context("nginx")?;
        let image = image.name().to_owned();
        // A network of its own: an engine need not have the default one.
        let network = format!("berth-soak-{}", http.port());
        docker(&["network", "create", "--label", sweep.label(), &network]).await?;
        Ok(Self {
            door,
            process,
            directory,
            certificate,
            image,
            network,
            sweep,
            pause,
            live: None,
            patient: None,
        })
    }

    /// Starts a version beside the old one, switches, pauses, stops the old one.
    pub(crate) async fn deploy(&mut self, app: &str, version: &str) -> Result<()> {
        let variable = format!("SOAK_VERSION={version}");
        let run = ["run", "--detach", "--init", "--label", self.sweep.label(), "--network", &self.network];
        let container =
            docker(&[&run[..], &["--env", &variable, &self.image]].concat()).await?.trim().to_owned();
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let ip = docker(&["inspect", "--format", format, &container]).await?.trim().to_owned();
        let addr = format!("{ip}:8080");
        self.healthy(&addr).await?;
        let new = Some((container, addr));
        let old = match app {
            PATIENT => std::mem::replace(&mut self.patient, new),
            _ => std::mem::replace(&mut self.live, new),
        };
        self.reload().await?;
        if let Some((container, _)) = old {
            tokio::time::sleep(self.pause).await;
            docker(&["stop", &container]).await?;
            docker(&["rm", &container]).await?;
        }
        Ok(())
    }

    async fn healthy(&self, addr: &str) -> Result<()> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if let Ok(answer) = client.get(format!("http://{addr}/health")).send().await
                && answer.status().is_success()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the container at {addr} is not healthy after 20 s")
    }

    async fn reload(&self) -> Result<()> {
        let address = |live: &Option<(String, String)>| live.as_ref().map(|(_, addr)| addr.clone());
        let (live, patient) = (address(&self.live), address(&self.patient));
        let (http, https) = (self.door.http, self.door.https);
        write_config(&self.directory, &self.certificate, http, https, live.as_deref(), patient.as_deref())?;
        let config = config_file(&self.directory).display().to_string();
        let reload = move || process::output("nginx", &["-c", &config, "-s", "reload"]);
        tokio::task::spawn_blocking(reload).await??;
        Ok(())
    }

    /// Resident memory of master and workers, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.process.resident_kib() * 1024
    }

    pub(crate) async fn leftovers(&self) -> Result<(Holdings, Vec<String>)> {
        Ok((docker::holdings(self.sweep.label()).await?, Vec::new()))
    }
}

fn config_file(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("nginx.conf")
}

/// What a careful user writes: upstream keep-alive, WebSockets, no buffering of events, large uploads, h2.
fn write_config(
    directory: &tempfile::TempDir,
    certificate: &Certificate,
    http: SocketAddr,
    https: SocketAddr,
    live: Option<&str>,
    patient: Option<&str>,
) -> Result<()> {
    let dir = directory.path().display();
    let (chain, key) = (certificate.chain.display(), certificate.key.display());
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let upstream = |name: &str, addr: Option<&str>| {
        // Port 9 is nobody's: nothing is deployed yet.
        format!("upstream {name} {{ server {}; keepalive 32; }}", addr.unwrap_or("127.0.0.1:9"))
    };
    let server = |host: &str, name: &str| {
        format!(
            "server {{ listen {http}; listen {https} ssl http2; server_name {host};
               ssl_certificate {chain}; ssl_certificate_key {key};
               location / {{ proxy_pass http://{name}; proxy_http_version 1.1; proxy_buffering off;
                 proxy_set_header Host $host; proxy_set_header Upgrade $http_upgrade;
                 proxy_set_header Connection $connection_upgrade;
                 proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}"
        )
    };
    let text = format!(
        "daemon off; {user} worker_processes auto; pid {dir}/nginx.pid; error_log {dir}/nginx.err;
         events {{ worker_connections 4096; }}
         http {{ access_log off; client_max_body_size 0;
           client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
           uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
           map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
           {}\n{}\n{}\n{} }}\n",
        upstream(APP, live),
        upstream(PATIENT, patient),
        server(HOST, APP),
        server("patient.localhost", PATIENT),
    );
    Ok(fs::write(config_file(directory), text)?)
}
