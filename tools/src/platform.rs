//! The platform itself: its health, and cleaning up.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
};

use berth_schemas::{
    Code, Problem, Scope,
    app::AppState,
    platform::{
        AppCounts, CleanupPlan, DiskStatus, PlatformCleanup, PlatformStatus, PlatformStatusGet,
        PlatformUpgrade, PlatformUpgrading, Removable,
    },
    traffic::TrafficMode,
};

use berth_deploy::{CleanupFound, Room};
use berth_store::model::{AppId, AppRow};

use crate::{
    confirm::confirmed,
    context::Context,
    find, jobs,
    ongoing::Ongoing,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

/// Below this share of the disk, or below this many bytes, free space needs attention.
const LOW_DISK_PERCENT: i64 = 10;
const LOW_DISK_BYTES: i64 = 2_000_000_000;

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "platform_status",
                title: "Show the platform's health",
                description: "Show whether Berth, Docker and the disk are well, how many apps run, and what needs attention with what to do about it. Start here when something is wrong and you do not know where.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Core,
                method: Method::Get,
                path: "/v1/platform",
            },
            status,
        ),
        Tool::new(
            Spec {
                name: "platform_cleanup",
                title: "Free disk space",
                description: "Remove what Berth made and no longer needs: containers, images, release files, uploads and build cache; never volumes or what others made. Lists it by default; removes with dry_run=false and confirm=\"cleanup\".",
                hints: Hints::DESTROY,
                scope: Scope::Admin,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/platform/cleanup",
            },
            cleanup,
        ),
        Tool::new(
            Spec {
                name: "platform_upgrade",
                title: "Replace the daemon by its new version",
                description: "Start the Berth program that is installed on the server now and hand over to it: listening sockets stay open, open requests finish in the old process. If the new one does not start, the old one goes on. Install the new program first (deploy.sh does both). Watch it with job_get.",
                hints: Hints::CREATE,
                scope: Scope::Admin,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/platform/upgrade",
            },
            upgrade,
        ),
    ]
}

async fn upgrade(call: Call, _: PlatformUpgrade) -> Result<PlatformUpgrading, Problem> {
    find::demand_all_projects(&call, "platform_upgrade")?;
    let job = call.context.pipeline.upgrade(&call.principal).await?;
    let from = Some(call.context.version.into());
    Ok(PlatformUpgrading { from, job: jobs::handle(&job), effect: None })
}

async fn status(call: Call, _: PlatformStatusGet) -> Result<PlatformStatus, Problem> {
    let context = &call.context;
    let docker = context.pipeline.docker_status().await;
    let disk = disk(context).await?;
    let seen = apps(&call).await?;
    let unsettled = context.store.deployments().unsettled().await?;
    let in_progress = unsettled.iter().filter(|d| seen.ids.contains(&d.app_id)).count();
    let needed = i64::try_from(context.pipeline.min_free_bytes()).unwrap_or(i64::MAX);
    let mut attention = attention(docker.available, docker.problem.as_deref(), &disk, needed, &seen);
    attention.extend(context.certs.attention(&call.principal.visible).await?);
    Ok(PlatformStatus {
        healthy: attention.is_empty(),
        attention,
        version: context.version.into(),
        started_at: context.started_at,
        docker,
        disk,
        store: context.store.kind().into(),
        memory_bytes: memory_bytes(),
        apps: seen.counts,
        deployments_in_progress: i64::try_from(in_progress).unwrap_or(i64::MAX),
        app_url_pattern: url_pattern(context),
    })
}

/// What needs attention, with what to do. `needed` bytes must be free for a build to begin.
fn attention(
    docker: bool,
    docker_problem: Option<&str>,
    disk: &DiskStatus,
    needed: i64,
    seen: &Seen,
) -> Vec<String> {
    let mut list = Vec::new();
    if !docker {
        let why = docker_problem.unwrap_or("Start Docker Engine and make its socket readable for Berth.");
        list.push(format!("Docker does not answer, so nothing can be built or started. {why}"));
    }
    if disk.free_bytes < needed {
        list.push(format!(
            "Only {} disk space are free; builds and uploads are refused below {} (min_free_disk_mb). platform_cleanup lists what can go.",
            jobs::size(disk.free_bytes),
            jobs::size(needed)
        ));
    } else if disk.free_bytes < LOW_DISK_BYTES
        || disk.free_bytes.saturating_mul(100) < disk.total_bytes * LOW_DISK_PERCENT
    {
        list.push(format!(
            "Only {} of {} disk space are free. platform_cleanup lists what can go.",
            jobs::size(disk.free_bytes),
            jobs::size(disk.total_bytes)
        ));
    }
    for app in &seen.counts.unhealthy {
        list.push(match seen.troubles.get(app) {
            Some(trouble) if !trouble.quotes => format!(
                "{app} does not serve as it should: {} {}",
                trouble.detail,
                trouble.hint.as_deref().unwrap_or("See app_get and log_search.")
            ),
            // What an app or Docker said of it is shown there as what it is.
            _ => format!(
                "{app} does not serve as it should. See app_get(app={app:?}) and log_search(app={app:?})."
            ),
        });
    }
    list.extend(seen.held.iter().cloned());
    list
}

/// The apps that a caller may see.
#[derive(Default)]
struct Seen {
    /// Counted by state.
    counts: AppCounts,
    ids: HashSet<AppId>,
    /// What stands in the way of repairing some, by name.
    troubles: BTreeMap<String, Problem>,
    /// What visitors of some meet instead, because somebody wanted that; and which apps keep dying.
    held: Vec<String>,
}

async fn apps(call: &Call) -> Result<Seen, Problem> {
    let mut seen = Seen::default();
    let Seen { counts, ids, troubles, held } = &mut seen;
    for app in call.context.store.apps().all_environments(&call.principal.visible).await? {
        ids.insert(app.id);
        troubles.extend(call.context.pipeline.trouble(&app).map(|t| (app.title(), t)));
        held.extend(held_back(&app));
        held.extend(call.context.pipeline.crash_loop(&app).map(|p| p.to_string()));
        let state = call.context.pipeline.app_state(&app).await;
        if app.is_production() {
            counts.total += 1;
        }
        match state {
            AppState::Running if app.is_production() => counts.running += 1,
            AppState::Stopped if app.is_production() => counts.stopped += 1,
            AppState::Down | AppState::Degraded => counts.unhealthy.push(app.title()),
            AppState::Running | AppState::Sleeping | AppState::Stopped => {}
            AppState::Empty | AppState::Paused | AppState::Maintenance => {}
        }
    }
    Ok(seen)
}

/// An app and its environment as arguments of a call.
fn named(app: &AppRow) -> String {
    match app.is_production() {
        true => format!("app={:?}", app.slug.as_str()),
        false => format!("app={:?}, environment={:?}", app.slug.as_str(), app.environment.name.as_str()),
    }
}

/// What keeps visitors from an app, where somebody wanted that.
fn held_back(app: &AppRow) -> Option<String> {
    let (what, by, since) = match &app.environment.traffic {
        TrafficMode::Open => return None,
        TrafficMode::Paused { by, since, .. } => ("is paused, so its visitors wait,", by, since),
        TrafficMode::Maintenance { by, since, .. } => ("shows a maintenance page", by, since),
    };
    let (title, call) = (app.title(), named(app));
    Some(format!("{title} {what} since {since} (by {by}). traffic_resume({call}) ends it."))
}

async fn disk(context: &Context) -> Result<DiskStatus, Problem> {
    let path = context.data_dir.clone();
    let measured = tokio::task::spawn_blocking(move || measure(&path)).await;
    match measured {
        Ok(Ok(disk)) => Ok(disk),
        Ok(Err(e)) => {
            Err(Problem::new(Code::Internal, format!("The data directory could not be measured: {e}.")))
        }
        Err(_) => Err(Problem::new(Code::Internal, "The data directory could not be measured.")),
    }
}

fn measure(path: &Path) -> std::io::Result<DiskStatus> {
    let room = Room::of(path)?;
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    Ok(DiskStatus {
        free_bytes: bytes(room.free),
        total_bytes: bytes(room.total),
        data_bytes: bytes(bytes_below(path)),
    })
}

/// Bytes of the files below a directory; what vanishes or cannot be read meanwhile counts nothing.
fn bytes_below(path: &Path) -> u64 {
    let mut sum = 0;
    let mut open = vec![path.to_path_buf()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            // Of the entry itself: a link counts as a link and is not followed.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                open.push(entry.path());
            } else {
                sum += metadata.len();
            }
        }
    }
    sum
}

/// Resident memory of this process; 0 where the system does not tell.
fn memory_bytes() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kilobytes: i64 = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0);
    kilobytes * 1024
}

fn url_pattern(context: &Context) -> String {
    let addresses = &context.addresses;
    let port = addresses.port.map(|p| format!(":{p}")).unwrap_or_default();
    format!("{}://<app>.{}{port}", addresses.scheme, addresses.base_domain)
}

async fn cleanup(call: Call, input: PlatformCleanup) -> Result<CleanupPlan, Problem> {
    find::demand_all_projects(&call, "platform_cleanup")?;
    let CleanupFound { items, kept } = call.context.pipeline.cleanup_plan().await?;
    let bytes = items.iter().map(|i| i.bytes).sum();
    if input.dry_run.unwrap_or(true) {
        return Ok(CleanupPlan { items, bytes, kept, job: None, effect: None });
    }
    let effect = format!("remove {} unneeded things ({})", items.len(), jobs::size(bytes));
    confirmed("platform_cleanup", "cleanup", input.confirm.as_deref(), &[effect])?;
    let job = call.context.pipeline.cleanup(&call.principal).await?;
    Ok(CleanupPlan { items, bytes, kept, job: Some(jobs::handle(&job)), effect: None })
}

impl Brief for PlatformStatus {
    fn brief(&self) -> Text {
        let mut text = Text::from(if self.healthy { "All is well." } else { "Something needs attention:" });
        for item in &self.attention {
            text = text.say(format!("\n- {item}"));
        }
        let docker = match &self.docker.version {
            Some(version) => format!("Docker {version}"),
            None => "no Docker".into(),
        };
        text.say(format!(
            "\nBerth {} since {}, {docker}, {} store, {} free of {}, {} of {} apps running, {} deployments in progress. Apps answer at {}.",
            self.version,
            self.started_at,
            self.store,
            jobs::size(self.disk.free_bytes),
            jobs::size(self.disk.total_bytes),
            self.apps.running,
            self.apps.total,
            self.deployments_in_progress,
            self.app_url_pattern
        ))
    }
}

impl Brief for PlatformUpgrading {
    fn brief(&self) -> Text {
        let version = self.from.as_deref().unwrap_or_default();
        format!(
            "Berth {version} hands over to the program that is installed now (job {}). job_get(job={:?}, wait_s=50) tells when the new one has taken over; platform_status shows its version.",
            self.job.job,
            self.job.job.as_str()
        )
        .into()
    }

    fn ongoing(&self) -> Option<Ongoing> {
        Ongoing::job(Some(&self.job))
    }
}

impl Brief for CleanupPlan {
    fn brief(&self) -> Text {
        /// More than a screen of them helps nobody.
        const SHOWN: usize = 30;
        let verb = if self.job.is_some() { "Removing" } else { "Would remove" };
        let mut text = Text::from(format!("{verb} {} things, {}.", self.items.len(), jobs::size(self.bytes)));
        for Removable { kind, name, bytes, why } in self.items.iter().take(SHOWN) {
            text = text.say(format!("\n{kind} {name} {}: {why}", jobs::size(*bytes)));
        }
        if self.job.is_none() && !self.kept.is_empty() {
            text = text.say("\nWould stay:");
            for Removable { kind, name, bytes, why } in self.kept.iter().take(SHOWN) {
                text = text.say(format!("\n{kind} {name} {}: {why}", jobs::size(*bytes)));
            }
        }
        match &self.job {
            Some(job) => text.say(format!("\nJob {}: job_get tells when it is done.", job.job)),
            None if self.items.is_empty() => text,
            None => text.say("\nTo do it: dry_run=false, confirm=\"cleanup\"."),
        }
    }

    fn ongoing(&self) -> Option<Ongoing> {
        Ongoing::job(self.job.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_says_what_to_do() {
        let well = DiskStatus { free_bytes: 50_000_000_000, total_bytes: 100_000_000_000, data_bytes: 0 };
        let none = Seen::default();
        assert!(attention(true, None, &well, 1 << 30, &none).is_empty());
        let refused = attention(true, None, &well, 60_000_000_000, &none);
        assert!(refused[0].contains("min_free_disk_mb"), "{refused:?}");
        let full = DiskStatus { free_bytes: 5_000_000_000, ..well };
        let counts = AppCounts { unhealthy: vec!["web".into()], ..AppCounts::default() };
        let seen = Seen { counts, held: vec!["shop is paused".into()], ..Seen::default() };
        let list = attention(false, None, &full, 1 << 30, &seen);
        assert_eq!(list.len(), 4);
        assert!(list[1].contains("platform_cleanup") && list[2].contains("app_get(app=\"web\")"));
    }

    #[test]
    fn links_out_of_the_directory_count_as_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), [0; 1000]).unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("d/root")).unwrap();
        assert!((1000..1100).contains(&bytes_below(dir.path())));
        assert!(measure(dir.path()).unwrap().total_bytes > 0);
        assert!(memory_bytes() > 0);
    }
}
