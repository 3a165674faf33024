//! A whole platform for tests: a real store in a directory that vanishes, the real pipeline and data plane, and
//! an engine in memory whose containers are servers on loopback.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use berth_certs::{Certs, CertsConfig};
use berth_deploy::{
    Addresses, EngineOutput, Pipeline, PipelineConfig,
    docker::{Engine, InstanceId, fake::FakeEngine},
};
use berth_forge::{ForgeConfig, Forges};
use berth_observe::{CollectorConfig, LogCollector};
use berth_proxy::{AccessSink, ListenOn, ProxyConfig, ProxyServer};
use berth_schemas::{Problem, Scope, Timestamp};
use berth_store::{
    MasterKey, Store, StoreConfig,
    model::{Principal, Visible},
};
use berth_tools::{Answer, Call, Context, Registry};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Destructive calls per minute: more than any walk makes.
pub const DESTRUCTIVE: u32 = 40;

pub struct World {
    pub context: Arc<Context>,
    pub registry: Arc<Registry>,
    pub engine: FakeEngine,
    _shutdown: DropGuard,
    _dir: tempfile::TempDir,
}

impl World {
    pub async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().to_path_buf();
        let shutdown = CancellationToken::new();
        let config = StoreConfig { data_dir: data_dir.clone(), database_url: None };
        let store = Store::open(config, MasterKey::load_or_create(&data_dir).unwrap()).await.unwrap();
        let instance = InstanceId::new(store.instance().parse().unwrap());
        let engine = FakeEngine::new(instance);
        let boxed: Arc<dyn Engine> = Arc::new(engine.clone());
        let listen =
            ProxyConfig { http: vec![ListenOn::Addr(([127, 0, 0, 1], 0).into())], ..ProxyConfig::default() };
        let (_server, proxy) = ProxyServer::bind(listen, AccessSink::channel(64).0).unwrap();
        let output = Arc::new(EngineOutput(Arc::clone(&boxed)));
        let collector =
            LogCollector::start(store.clone(), output, CollectorConfig::default(), shutdown.child_token());
        let addresses =
            Addresses { base_domain: "localhost".into(), scheme: "http", port: Some(8080), https: None };
        let error_index =
            berth_observe::errors::ErrorIndex::start(store.clone(), None, shutdown.child_token()).unwrap();
        let config = PipelineConfig {
            data_dir: data_dir.clone(),
            addresses: addresses.clone(),
            concurrent_builds: 2,
            min_free_bytes: 0,
            build_cache_bytes: 10 << 30,
            allow_private_sources: true,
            allow_local_sources: true,
            git_ssh_key: None,
            git_access: None,
            arrival: berth_deploy::Arrival::Started,
            alone: {
                let alone = tokio_util::sync::CancellationToken::new();
                alone.cancel();
                alone
            },
            successor: None,
            control: None,
            errors: None,
            maps: None,
            eraser: Some(berth_observe::errors::Eraser::new(store.clone(), error_index.clone())),
            max_source_bytes: 1 << 20,
        };
        let dns =
            berth_certs::dns::Dns::new(store.clone(), berth_certs::dns::DnsConfig::new(Vec::new(), |_| true));
        let certificates =
            CertsConfig { https: false, acme: None, fallback: None, own: None, control_host: None };
        let certs =
            Certs::open(store.clone(), proxy.clone(), dns.clone(), certificates, shutdown.child_token())
                .await
                .unwrap();
        let pipeline =
            Pipeline::open(store.clone(), boxed, instance, proxy, collector, config, shutdown.child_token())
                .await
                .unwrap();
        let started_at = Timestamp::now();
        let forges = ForgeConfig {
            public_url: "http://localhost:7700".into(),
            allow_private: true,
            allow_local: true,
        };
        let forges = Arc::new(Forges::new(store.clone(), forges));
        let ingest = berth_observe::errors::Ingest::start(store.clone(), shutdown.child_token());
        let maps = berth_observe::errors::Maps::start(
            store.clone(),
            data_dir.join("maps"),
            error_index.clone(),
            shutdown.child_token(),
        );
        let _digester = berth_observe::errors::Digester::start(
            store.clone(),
            ingest.clone(),
            error_index.clone(),
            maps.clone(),
            shutdown.child_token(),
        );
        let context = Arc::new(Context {
            dns,
            ingest,
            error_index,
            maps,
            sender: berth_monitor::Sender {
                policy: berth_deploy::source::guard::HostPolicy {
                    allow_private: true,
                    allow_hosts: Vec::new(),
                },
            },
            control_url: "http://localhost:7700".into(),
            store,
            forges: Arc::clone(&forges),
            pipeline,
            certs,
            addresses,
            control_hosts: vec!["berth.localhost".into()],
            data_dir,
            allow_local_sources: true,
            started_at,
            brake: berth_tools::Brake::new(DESTRUCTIVE),
            version: "test",
        });
        let registry = Arc::new(berth_tools::registry());
        Self { context, registry, engine, _shutdown: shutdown.drop_guard(), _dir: dir }
    }

    /// Calls a tool as an admin.
    pub async fn call(&self, tool: &str, input: Value) -> Result<Answer, Problem> {
        self.call_as(&admin(), tool, input).await
    }

    /// Calls a tool as somebody else. Whatever it answers has to be what its schema says.
    pub async fn call_as(&self, who: &Principal, tool: &str, input: Value) -> Result<Answer, Problem> {
        let call = Call::new(Arc::clone(&self.context), who.clone());
        let answer = self.registry.get(tool).unwrap().call(call, input).await;
        if let Ok(answer) = &answer {
            conforms(tool, &answer.output);
        }
        answer
    }

    /// The output of a call that must work.
    pub async fn ok(&self, tool: &str, input: Value) -> Value {
        self.call(tool, input).await.unwrap_or_else(|p| panic!("{tool}: {p}")).output
    }

    /// Takes events of an app as its Sentry client sends them, and waits until there are so many issues of it.
    pub async fn report(&self, app: &str, events: &[Value], issues: i64) {
        use berth_observe::errors::{accept, auth};
        let dsn = self.ok("dsn_get", serde_json::json!({ "app": app })).await["dsn"].take();
        let (key, id) = auth::in_dsn(dsn.as_str().unwrap()).unwrap();
        let target = self.context.ingest.target(id, &key).await.unwrap();
        let reading = accept::Reading {
            rules: &target.scrub,
            peer: None,
            now: Timestamp::now(),
            new_id: || unreachable!("each event has its id"),
            admits: &|_, _| true,
        };
        for event in events {
            let accepted = accept::store(event.to_string().as_bytes(), &reading);
            self.context.ingest.keep(&target, accepted.pack().unwrap()).await.unwrap();
        }
        let seen = serde_json::json!({ "app": app });
        eventually(async || self.ok("error_search", seen.clone()).await["total"] == issues).await;
    }

    /// Deploys an image that serves, and waits until it is live.
    pub async fn deploy(&self, app: &str) -> Value {
        self.engine.add_image("hello:1", berth_deploy::docker::fake::Behaviour::default());
        let input = serde_json::json!({ "app": app, "image": "hello:1", "create_app": true, "wait_s": 30 });
        let output = self.ok("deployment_create", input).await;
        assert_eq!(output["state"], "live", "{output:#}");
        output
    }
}

/// Fails unless this is an output of this tool, as the tool's schema says.
pub fn conforms(tool: &str, output: &Value) {
    static SCHEMAS: LazyLock<HashMap<&'static str, jsonschema::Validator>> = LazyLock::new(|| {
        let registry = berth_tools::registry();
        let made = registry.tools().iter().map(|t| {
            let made = jsonschema::validator_for(&t.output);
            (t.spec.name, made.unwrap_or_else(|e| panic!("{}: {e}", t.spec.name)))
        });
        made.collect()
    });
    let faults = SCHEMAS[tool].iter_errors(output).map(|e| format!("{}: {e}", e.instance_path()));
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "{tool} answers what its schema does not allow: {faults:#?}\n{output:#}");
}

pub fn admin() -> Principal {
    somebody("admin", &[Scope::Admin])
}

pub fn somebody(name: &str, scopes: &[Scope]) -> Principal {
    Principal::new(name, scopes.to_vec(), Visible::All)
}

/// Waits until `done` says so, at most ten seconds.
pub async fn eventually<F: AsyncFnMut() -> bool>(mut done: F) {
    for _ in 0..200 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it did not happen within ten seconds");
}
