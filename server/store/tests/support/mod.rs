//! A store to test with, on whichever database, and the few steps that most stories begin with.

#![allow(dead_code, missing_docs, unreachable_pub, unused_imports)]

pub mod postgresql;
pub mod scenarios;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use berth_schemas::{
    AppSlug, ProjectSlug, Timestamp, app::AppSettings, deployment::DeploymentState as S,
    variable::VariableScope,
};
use berth_store::*;

/// A store with a clock that moves by a millisecond each time it is asked.
pub struct World {
    pub store: Store,
    pub url: Option<String>,
    pub dir: tempfile::TempDir,
    pub time: Arc<AtomicI64>,
}

/// 2026-01-01T00:00:00Z.
pub const START: i64 = 1_767_225_600_000_000;

impl World {
    pub async fn on(url: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicI64::new(START));
        let store = open(dir.path(), url.clone(), &time).await.unwrap();
        Self { store, url, dir, time }
    }

    pub async fn reopen(&mut self) {
        self.store.close().await;
        self.store = open(self.dir.path(), self.url.clone(), &self.time).await.unwrap();
    }

    pub fn advance(&self, seconds: i64) {
        self.time.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    pub async fn app(&self, name: &str) -> AppRow {
        self.app_in("default", name).await
    }

    pub async fn app_in(&self, project: &str, name: &str) -> AppRow {
        let root = Principal::daemon();
        let slug: ProjectSlug = project.parse().unwrap();
        let project = match self.store.projects().by_slug(&Visible::All, &slug).await.unwrap() {
            Some(project) => project,
            None => self.store.projects().create(&root, slug).await.unwrap(),
        };
        self.store.apps().create(&root, project.id, app_name(name), AppSettings::default()).await.unwrap()
    }

    pub async fn refresh(&self, app: &AppRow) -> AppRow {
        self.store.apps().by_id(app.id).await.unwrap().unwrap()
    }

    pub async fn enqueue(&self, app: &AppRow) -> DeploymentRow {
        self.store.deployments().enqueue(new_deployment(app)).await.unwrap()
    }

    /// Takes a queued deployment up to `switching`, with a release.
    pub async fn until_switching(&self, d: &DeploymentRow) -> ReleaseRow {
        self.step(d, &[S::Queued, S::Fetching, S::Building]).await;
        let release = self.store.releases().create(new_release(d.id)).await.unwrap();
        self.step(d, &[S::Building, S::Starting, S::Checking, S::Switching]).await;
        release
    }

    /// A deployment that goes all the way.
    pub async fn deploy(&self, app: &AppRow) -> (DeploymentRow, ReleaseRow) {
        let d = self.enqueue(app).await;
        let release = self.until_switching(&d).await;
        self.store.deployments().switch_live(d.id, release.id).await.unwrap();
        let d = self.store.deployments().finish_live(d.id).await.unwrap();
        (d, release)
    }

    pub async fn step(&self, d: &DeploymentRow, states: &[S]) {
        for pair in states.windows(2) {
            self.store.deployments().transition(d.id, pair[0], pair[1], Change::default()).await.unwrap();
        }
    }

    pub async fn state(&self, d: &DeploymentRow) -> S {
        self.store.deployments().get(d.id).await.unwrap().unwrap().state
    }

    /// Runs SQL past the store, as somebody with access to the database would.
    pub async fn tamper(&self, sql: &'static str) -> u64 {
        sqlx::any::install_default_drivers();
        let url = self
            .url
            .clone()
            .unwrap_or_else(|| format!("sqlite://{}", self.dir.path().join(SQLITE_FILE).display()));
        let pool = sqlx::any::AnyPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
        let done = sqlx::query(sql).execute(&pool).await.unwrap().rows_affected();
        pool.close().await;
        done
    }
}

pub async fn open(dir: &Path, url: Option<String>, time: &Arc<AtomicI64>) -> Result<Store> {
    let time = time.clone();
    let clock = Clock::from_fn(move || Timestamp(time.fetch_add(1000, Ordering::SeqCst)));
    let key = MasterKey::load_or_create(dir)?;
    Store::with_clock(StoreConfig { data_dir: dir.to_owned(), database_url: url }, key, clock).await
}

pub fn app_name(name: &str) -> AppSlug {
    name.parse().unwrap()
}

pub fn new_deployment(app: &AppRow) -> NewDeployment {
    NewDeployment {
        app: app.id,
        environment: app.environment.id,
        source: DeploymentSource::Image { image: "web:1".into() },
        key: None,
        by: "ci".into(),
        message: Some("Fix the thing".into()),
        no_cache: false,
        rollout: None,
    }
}

pub fn new_release(deployment: DeploymentId) -> NewRelease {
    NewRelease {
        deployment,
        artifact: Artifact::Image {
            image_id: format!("sha256:{}", deployment.0),
            reference: "web:1".into(),
            port: 8080,
            built: true,
            command: None,
            private_maps: false,
        },
        settings: AppSettings::default(),
        variables: Snapshot {
            branch: None,
            dsn: None,
            variables: vec![SnapshotVariable {
                name: "KEY".parse().unwrap(),
                value: "s3cr3t value".into(),
                secret: true,
                scope: VariableScope::Environment,
                version: 1,
            }],
        },
        bytes: 1000,
        maps_of: None,
    }
}
