//! `berth mcp`: MCP on standard input and output, for assistants that start a program instead of calling a URL.
//!
//! Each line of JSON-RPC goes to the daemon's `/mcp` as one POST; what comes back, as JSON or as events, goes to
//! standard output line by line. Requests run beside each other. The one thing added on the way is [`folder`]:
//! a folder of this machine becomes an upload, since the daemon cannot see it.

pub mod folder;
pub mod install;
pub mod message;

use std::{
    collections::HashMap,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use clap::{Arg, ArgAction, ArgMatches, Command};
use futures_util::StreamExt as _;
use reqwest::{Method, Response, header};
use serde_json::Value;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::{Session, block_on, client::Client, failure::Failure, sse::Parser};
use message::Message;

/// Longest message in bytes.
const LINE_MAX: u64 = 16 << 20;
/// Requests under way at the same time; more wait on standard input.
const CONCURRENT: usize = 64;

/// The command.
#[must_use]
pub fn command() -> Command {
    Command::new("mcp")
        .about("Serve MCP on standard input and output, for assistants that start a program")
        .subcommand(install::command())
        .arg(
            Arg::new("read-only")
                .long("read-only")
                .action(ArgAction::SetTrue)
                .help("Offer only tools that change nothing"),
        )
        .arg(Arg::new("tools").long("tools").value_name("NAMES").help(
            "Offer these groups or tools, comma-separated, instead of the usual ones; core means those",
        ))
}

/// Runs the command.
///
/// # Errors
/// When standard input or output fail.
pub fn run(session: &Session, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let read_only = matches.get_flag("read-only");
    if let Some(("install", arguments)) = matches.subcommand() {
        let read_only = read_only.then(|| "--read-only".to_owned());
        let tools = matches.get_one::<String>("tools").map(|names| ["--tools".to_owned(), names.clone()]);
        let bridge: Vec<String> = read_only.into_iter().chain(tools.into_iter().flatten()).collect();
        return install::run(session, arguments, &bridge);
    }
    let mut query = Vec::new();
    if read_only {
        query.push(("read_only", "1".to_owned()));
    }
    if let Some(tools) = matches.get_one::<String>("tools") {
        query.push(("tools", tools.clone()));
    }
    block_on(async {
        let (output, mut lines) = mpsc::channel::<String>(256);
        let bridge = Arc::new(Bridge {
            client: session.client()?,
            query,
            read_only,
            version: Mutex::default(),
            running: Mutex::default(),
            output,
        });
        let writer = async move {
            let mut stdout = tokio::io::stdout();
            while let Some(line) = lines.recv().await {
                stdout.write_all(line.as_bytes()).await?;
                stdout.write_all(b"\n").await?;
                stdout.flush().await?;
            }
            Ok::<_, Failure>(())
        };
        let reader = bridge.read(BufReader::new(tokio::io::stdin()));
        let (read, written) = tokio::join!(reader, writer);
        read.and(written).map(|()| ExitCode::SUCCESS)
    })
}

struct Bridge {
    client: Client,
    query: Vec<(&'static str, String)>,
    read_only: bool,
    /// What `initialize` agreed on, in the era that has it.
    version: Mutex<Option<String>>,
    /// Requests under way, by their id as JSON.
    running: Mutex<HashMap<String, AbortHandle>>,
    output: mpsc::Sender<String>,
}

impl Bridge {
    /// Reads messages until the end of input, then waits for what is under way.
    async fn read(self: Arc<Self>, mut input: impl AsyncBufRead + Unpin) -> Result<(), Failure> {
        let mut tasks = JoinSet::new();
        loop {
            let mut line = String::new();
            if (&mut input).take(LINE_MAX).read_line(&mut line).await? == 0 {
                break;
            }
            if line.trim().is_empty() {
                continue;
            }
            while tasks.len() >= CONCURRENT {
                tasks.join_next().await;
            }
            while tasks.try_join_next().is_some() {}
            match Message::parse(&line) {
                Ok(message) => self.take(message, &mut tasks).await,
                Err(answer) => self.say(answer).await,
            }
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    }

    /// Starts the work for a message.
    async fn take(self: &Arc<Self>, message: Message, tasks: &mut JoinSet<()>) {
        if let Some(id) = message.cancels() {
            // Hanging up is what cancels a request at the daemon; nothing is answered to it any more.
            if let Some(task) = self.running().remove(&id) {
                task.abort();
            }
        }
        // What follows `initialize` needs the version that it settles.
        if message.method() == Some("initialize") {
            self.forward(message).await;
            return;
        }
        let id = message.id().map(Value::to_string);
        let bridge = Arc::clone(self);
        let key = id.clone();
        let task = tasks.spawn(async move {
            bridge.forward(message).await;
            if let Some(key) = key {
                bridge.running().remove(&key);
            }
        });
        if let Some(id) = id {
            self.running().insert(id, task);
        }
    }

    async fn forward(&self, mut message: Message) {
        let id = message.id().cloned();
        let outcome = match folder::upload(&mut message, &self.client, self.read_only).await {
            Ok(()) => self.post(&message).await,
            // What a model can correct is an answer of the tool, not an error of the protocol.
            Err(failure) => {
                if let Some(id) = id {
                    self.say(message::tool_error(&id, &failure)).await;
                }
                return;
            }
        };
        if let (Err(failure), Some(id)) = (outcome, id) {
            self.say(message::error(&id, &failure)).await;
        }
    }

    async fn post(&self, message: &Message) -> Result<(), Failure> {
        let agreed = self.version.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut request = self
            .client
            .request(Method::POST, "/mcp")
            .query(&self.query)
            .header(header::ACCEPT, "application/json, text/event-stream")
            .json(message.body());
        for (name, value) in message.headers(agreed.as_deref()) {
            request = request.header(name, value);
        }
        let response = match &self.client.target.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let response = response.send().await.map_err(|e| self.client.unreachable(&e))?;
        let is_initialize = message.method() == Some("initialize");
        self.relay(response, is_initialize, message.id().is_some()).await
    }

    /// Passes on what the daemon answers.
    async fn relay(&self, response: Response, is_initialize: bool, expected: bool) -> Result<(), Failure> {
        let status = response.status();
        let of_type = |wanted: &str| {
            let given = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
            given.is_some_and(|t| t.starts_with(wanted))
        };
        if of_type("text/event-stream") {
            return self.relay_events(response).await;
        }
        let is_problem = of_type("application/problem+json");
        let body = response.bytes().await.map_err(|e| self.client.unreachable(&e))?;
        if is_problem && let Ok(problem) = serde_json::from_slice::<berth_schemas::Problem>(&body) {
            return Err(problem.into());
        }
        let Ok(answer) = serde_json::from_slice::<Value>(&body) else {
            // 202 answers a notification; anything else without JSON is not MCP.
            let fine = status.is_success() && !expected;
            return if fine {
                Ok(())
            } else {
                Err(Failure::local(format!("{} answered {status} at /mcp", self.client.target.url)))
            };
        };
        if is_initialize && let Some(version) = answer["result"]["protocolVersion"].as_str() {
            *self.version.lock().unwrap_or_else(PoisonError::into_inner) = Some(version.to_owned());
        }
        self.say(answer).await;
        Ok(())
    }

    async fn relay_events(&self, response: Response) -> Result<(), Failure> {
        let mut chunks = response.bytes_stream();
        let mut parser = Parser::default();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|e| self.client.unreachable(&e))?;
            let events =
                parser.feed(&chunk).ok_or_else(|| Failure::local("an event of the daemon is too large"))?;
            for event in events {
                if let Ok(message) = serde_json::from_str::<Value>(&event.data) {
                    self.say(message).await;
                }
            }
        }
        Ok(())
    }

    async fn say(&self, message: Value) {
        // Serialised JSON holds no raw newline, so that one message is one line.
        let _ = self.output.send(message.to_string()).await;
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, AbortHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
