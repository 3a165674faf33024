//! What the fake engine knows, and the handle by which a test scripts it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpSocket;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::server;
use super::{Behaviour, BuildScript};
use crate::docker::*;

/// Pause before the fake restarts a container that ended.
const RESTART_AFTER: Duration = Duration::from_millis(100);

/// The engine. Clones share it.
#[derive(Clone)]
pub struct FakeEngine {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) instance: InstanceId,
    /// Moves whenever anything changed.
    pub(super) changed: watch::Sender<u64>,
    /// Where containers run: the runtime that the engine was made in, so that they outlive a caller's.
    pub(super) runtime: Option<Handle>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) images: BTreeMap<String, Image>,
    pub(super) networks: BTreeMap<String, Labels>,
    pub(super) containers: BTreeMap<ContainerId, Container>,
    pub(super) events: Vec<EngineEvent>,
    pub(super) builds: VecDeque<BuildScript>,
    pub(super) failures: HashMap<&'static str, VecDeque<EngineError>>,
    pub(super) journal: Vec<String>,
    pub(super) away: bool,
    made: u64,
}

/// An image, by id.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) tags: Vec<String>,
    pub(super) labels: Labels,
    pub(super) behaviour: Behaviour,
    pub(super) created_at: i64,
}

pub(super) struct Container {
    pub(super) spec: ContainerSpec,
    pub(super) image_id: String,
    pub(super) labels: Labels,
    pub(super) phase: ContainerPhase,
    pub(super) exit: Option<ContainerExit>,
    pub(super) ports: HashMap<u16, SocketAddr>,
    /// Bound and never listening: ports that were asked for and that the app does not have.
    pub(super) closed: Vec<TcpSocket>,
    pub(super) lines: Vec<LogLine>,
    pub(super) created_at: i64,
    pub(super) started_at: Option<i64>,
    pub(super) finished_at: Option<i64>,
    pub(super) restart_count: u32,
    /// Counts the starts, so that the end of an earlier run is not taken for the end of this one.
    pub(super) run: u64,
    pub(super) task: Option<AbortOnDropHandle<()>>,
}

impl FakeEngine {
    /// An engine with nothing in it.
    pub fn new(instance: InstanceId) -> Self {
        let runtime = Handle::try_current().ok();
        Self { state: Arc::default(), instance, changed: watch::Sender::new(0), runtime }
    }

    /// The instance whose engine this is.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Puts an image there, as if it had been pulled.
    pub fn add_image(&self, name: &str, behaviour: Behaviour) -> String {
        self.insert_image(vec![name.to_owned()], Labels::new(), behaviour)
    }

    /// Scripts the next build that has no script yet; without a script a build succeeds at once.
    pub fn next_build(&self, script: BuildScript) {
        self.lock().builds.push_back(script);
    }

    /// Makes the next call of `operation` (a method's name) fail. May be called several times.
    pub fn fail_next(&self, operation: &'static str, error: EngineError) {
        self.lock().failures.entry(operation).or_default().push_back(error);
    }

    /// Every call fails as if Docker were stopped. Containers go on.
    pub fn go_away(&self) {
        self.lock().away = true;
        self.touch();
    }

    /// Ends [`FakeEngine::go_away`].
    pub fn come_back(&self) {
        self.lock().away = false;
    }

    /// Ends a running container from within.
    pub fn crash(&self, id: &ContainerId, code: i64, oom_killed: bool) {
        let run = self.lock().containers.get(id).map(|container| container.run);
        if let Some(run) = run {
            self.ended(id, run, ContainerExit { code, oom_killed, error: None });
        }
    }

    /// Adds a line to a container's output.
    pub fn print(&self, id: &ContainerId, stream: OutputStream, text: &str) {
        if let Some(container) = self.lock().containers.get_mut(id) {
            let line = LogLine { at_nanos: now_nanos(), stream, text: text.to_owned(), partial: false };
            container.lines.push(line);
        }
        self.touch();
    }

    /// All calls so far, each as its name and what it was about.
    pub fn journal(&self) -> Vec<String> {
        self.lock().journal.clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        match &self.runtime {
            Some(runtime) => runtime.spawn(task),
            None => tokio::spawn(task),
        }
    }

    pub(super) fn touch(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// The beginning of every call: notes it, and fails it if so scripted.
    pub(super) fn enter(&self, operation: &'static str, about: &str) -> Result<(), EngineError> {
        let mut state = self.lock();
        state.journal.push(format!("{operation} {about}").trim_end().to_owned());
        if state.away {
            return Err(away());
        }
        match state.failures.get_mut(operation).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    pub(super) fn insert_image(&self, tags: Vec<String>, labels: Labels, behaviour: Behaviour) -> String {
        let mut state = self.lock();
        let id = format!("sha256:{:064x}", state.next_number());
        for image in state.images.values_mut() {
            image.tags.retain(|tag| !tags.contains(tag));
        }
        let image = Image { tags, labels, behaviour, created_at: now_nanos() / 1000 };
        state.images.insert(id.clone(), image);
        id
    }

    /// Starts a container's servers and clocks. The caller holds no lock.
    pub(super) fn launch(&self, id: &ContainerId) -> Result<(), EngineError> {
        let mut state = self.lock();
        let image = match state.containers.get(id) {
            None => return Err(EngineError::NotFound { what: format!("container {}", id.short()) }),
            Some(container) if container.phase == ContainerPhase::Running => return Ok(()),
            Some(container) => state.images.get(&container.image_id).cloned(),
        };
        let Some(image) = image else { return Err(EngineError::NotFound { what: "image".into() }) };
        let behaviour = image.behaviour;
        let mut ports = Vec::new();
        for port in &behaviour.ports {
            ports.push(server::bind(*port).map_err(|e| EngineError::other("binding a fake port", e))?);
        }
        let Some(container) = state.containers.get_mut(id) else { return Ok(()) };
        container.run += 1;
        container.phase = ContainerPhase::Running;
        container.exit = None;
        container.started_at = Some(now_nanos() / 1000);
        container.ports = ports.iter().map(|port| (port.inner, port.addr)).collect();
        container.closed.clear();
        for text in &behaviour.output {
            let line = LogLine {
                at_nanos: now_nanos(),
                stream: OutputStream::Stdout,
                text: text.clone(),
                partial: false,
            };
            container.lines.push(line);
        }
        let (engine, id, run) = (self.clone(), id.clone(), container.run);
        let name = image.tags.first().cloned().unwrap_or_else(|| container.image_id.clone());
        let task = {
            let id = id.clone();
            self.spawn(async move {
                let sockets: Vec<_> = ports.into_iter().map(|port| port.socket).collect();
                let exit = behaviour.exit;
                let serving = async {
                    match behaviour.loopback_only {
                        // Bound but never listening: refused, as from outside of such a container.
                        true => (std::future::pending::<()>().await, drop(sockets)).0,
                        false => server::serve(sockets, behaviour, name).await,
                    }
                };
                match exit {
                    None => serving.await,
                    Some((after, code, oom_killed)) => {
                        let _ = tokio::time::timeout(after, serving).await;
                        engine.ended(&id, run, ContainerExit { code, oom_killed, error: None });
                    }
                }
            })
        };
        container.task = Some(AbortOnDropHandle::new(task));
        state.tell(&id, EngineEventKind::Start);
        drop(state);
        self.touch();
        Ok(())
    }

    /// The end of a container's run, with what its restart policy wants.
    pub(super) fn ended(&self, id: &ContainerId, run: u64, exit: ContainerExit) {
        let mut state = self.lock();
        let Some(container) = state.containers.get_mut(id) else { return };
        if container.run != run || container.phase != ContainerPhase::Running {
            return;
        }
        let again = container.spec.restart == RestartPolicy::UnlessStopped;
        let code = exit.code;
        let oom = exit.oom_killed;
        container.halt(exit, if again { ContainerPhase::Restarting } else { ContainerPhase::Exited });
        if oom {
            state.tell(id, EngineEventKind::Oom);
        }
        state.tell(id, EngineEventKind::Die { exit_code: code });
        drop(state);
        self.touch();
        if again {
            let (engine, id) = (self.clone(), id.clone());
            drop(self.spawn(async move {
                tokio::time::sleep(RESTART_AFTER).await;
                let still = engine.lock().containers.get_mut(&id).is_some_and(|container| {
                    let waits = container.phase == ContainerPhase::Restarting && container.run == run;
                    container.restart_count += u32::from(waits);
                    waits
                });
                if still {
                    let _ = engine.launch(&id);
                }
            }));
        }
    }
}

impl State {
    pub(super) fn next_number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    pub(super) fn tell(&mut self, id: &ContainerId, kind: EngineEventKind) {
        let labels = self.containers.get(id).map(|container| container.labels.clone()).unwrap_or_default();
        self.events.push(EngineEvent { kind, container: id.clone(), labels, at_nanos: now_nanos() });
    }

    /// An image by id or name.
    pub(super) fn find_image(&self, name: &str) -> Option<(String, Image)> {
        self.images
            .iter()
            .find(|(id, image)| *id == name || image.tags.iter().any(|tag| tag == name))
            .map(|(id, image)| (id.clone(), image.clone()))
    }
}

impl Container {
    /// Closes its ports and notes its end.
    pub(super) fn halt(&mut self, exit: ContainerExit, phase: ContainerPhase) {
        self.phase = phase;
        self.exit = Some(exit);
        self.finished_at = Some(now_nanos() / 1000);
        self.ports.clear();
        self.closed.clear();
        if let Some(task) = self.task.take() {
            // Dropping the handle aborts the task; it may be the one that runs here, which then ends by itself.
            drop(task);
        }
    }
}

pub(super) fn away() -> EngineError {
    EngineError::Unavailable {
        why: Unavailability::NotListening,
        hint: "start Docker with `systemctl start docker`".to_owned(),
    }
}

pub(super) fn now_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
