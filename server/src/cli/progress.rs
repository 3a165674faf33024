//! Follows a deployment in the terminal: each step with its time, the log as it comes, one clear end.
//!
//! The stream may break when the daemon restarts; the deployment does not. Then its state is asked for until it
//! has settled.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use berth_schemas::{
    Code, DeploymentRef, Problem,
    deployment::{BuildLine, BuildLineKind, DeploymentDetail, DeploymentState},
};
use berth_tools::Tool;
use futures_util::StreamExt as _;
use serde_json::{Map, Value};

use super::{
    Session,
    client::{Client, understood},
    failure::{Failure, print_problem},
    sse::Event,
    term,
};

/// How long to keep asking a daemon that does not answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Calls a tool that starts a deployment and follows that to its end. Interrupting detaches: the deployment
/// goes on.
///
/// # Errors
/// Whatever the daemon answers before there is a deployment.
pub async fn follow(
    session: &Session,
    client: &Client,
    tool: &Tool,
    input: Map<String, Value>,
) -> Result<ExitCode, Failure> {
    let mut shown = Shown::new(session.json);
    let ended = tokio::select! {
        ended = stream(session, client, tool, input, &mut shown) => ended,
        _ = tokio::signal::ctrl_c() => return Ok(shown.detach()),
    };
    // The selection above borrowed what is shown; only now can the end be said.
    let detail = ended?;
    Ok(shown.end(&detail))
}

async fn stream(
    session: &Session,
    client: &Client,
    tool: &Tool,
    mut input: Map<String, Value>,
    shown: &mut Shown,
) -> Result<DeploymentDetail, Failure> {
    // A stream that follows needs no wait; the key makes a second try of the same call safe.
    input.remove("wait_s");
    let mut events = client.follow(tool, input).await?;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if let Some(detail) = shown.event(&event)? {
                    return Ok(detail);
                }
            }
            Err(failure) if shown.deployment.is_none() => return Err(failure),
            Err(_) => break,
        }
    }
    let deployment = shown.deployment.clone().ok_or_else(|| {
        Failure::local("the daemon ended the stream before it named the deployment")
            .hint("Look with `berth deployment list APP`; the deployment may have begun.")
    })?;
    shown.note("The connection broke; asking for the state instead.");
    poll(session, client, &deployment).await
}

async fn poll(
    session: &Session,
    client: &Client,
    deployment: &DeploymentRef,
) -> Result<DeploymentDetail, Failure> {
    let tool = session.tool("deployment_get")?;
    let mut heard = Instant::now();
    loop {
        let input = Map::from_iter([
            ("deployment".to_owned(), Value::from(deployment.to_string())),
            ("wait_s".to_owned(), Value::from(20)),
        ]);
        match client.call(tool, input).await {
            Ok(output) => {
                heard = Instant::now();
                let detail: DeploymentDetail = understood(output)?;
                if detail.settled {
                    return Ok(detail);
                }
            }
            Err(failure @ Failure::Unreachable { .. }) if heard.elapsed() > PATIENCE => return Err(failure),
            Err(Failure::Unreachable { .. }) => {}
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What the terminal shows.
struct Shown {
    json: bool,
    deployment: Option<DeploymentRef>,
    step: Option<(DeploymentState, Instant)>,
    begun: Instant,
}

impl Shown {
    fn new(json: bool) -> Self {
        Self { json, deployment: None, step: None, begun: Instant::now() }
    }

    /// Shows an event; returns the deployment if it was the last.
    fn event(&mut self, event: &Event) -> Result<Option<DeploymentDetail>, Failure> {
        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        match event.name.as_str() {
            "result" => return understood(data).map(Some),
            "problem" => {
                return match serde_json::from_value::<Problem>(data) {
                    // The daemon is restarting; the deployment is not lost.
                    Ok(p) if p.code == Code::Interrupted && self.deployment.is_some() => Ok(None),
                    Ok(problem) => Err(problem.into()),
                    Err(e) => Err(Failure::local(format!("the daemon's answer is not understood: {e}"))),
                };
            }
            "state" => {
                if let Ok(deployment) = serde_json::from_value(data["deployment"].clone()) {
                    self.deployment = Some(deployment);
                }
                if let Ok(state) = serde_json::from_value::<DeploymentState>(data["state"].clone()) {
                    self.enter(state, data["reason"].as_str());
                }
            }
            "build_line" => {
                if let Ok(line) = serde_json::from_value::<BuildLine>(data) {
                    self.line(&line);
                }
            }
            "message" => self.note(data["text"].as_str().unwrap_or_default()),
            _ => {}
        }
        Ok(None)
    }

    /// Closes the step before with its time and opens the next.
    fn enter(&mut self, state: DeploymentState, reason: Option<&str>) {
        self.close_step();
        if self.json || state.is_settled() {
            return;
        }
        let reason = reason.map(|r| format!(" ({})", term::safe(r))).unwrap_or_default();
        let name =
            self.deployment.as_ref().filter(|_| state == DeploymentState::Queued).map(|d| format!(" {d}"));
        anstream::eprintln!("{h}{}{h:#}{}{reason}", state.as_str(), name.unwrap_or_default(), h = term::HINT);
        self.step = Some((state, Instant::now()));
    }

    fn close_step(&mut self) {
        if let Some((state, since)) = self.step.take()
            && since.elapsed() >= Duration::from_millis(100)
        {
            anstream::eprintln!(
                "{m}  {} took {}{m:#}",
                state.as_str(),
                term::span(since.elapsed()),
                m = term::MUTED
            );
        }
    }

    fn line(&self, line: &BuildLine) {
        if self.json {
            return;
        }
        let style = match line.kind {
            BuildLineKind::Failed => term::BAD,
            BuildLineKind::Warning => term::WARN,
            BuildLineKind::Step => term::HEAD,
            BuildLineKind::Note => anstyle::Style::new(),
            BuildLineKind::Cached | BuildLineKind::Done | BuildLineKind::Output => term::MUTED,
        };
        let step = line.step.as_ref().map(|s| format!("[{}] ", term::safe(&s.0))).unwrap_or_default();
        anstream::eprintln!("  {style}{step}{}{style:#}", term::line(&line.text.0));
    }

    fn note(&self, text: &str) {
        if !self.json && !text.is_empty() {
            anstream::eprintln!("{m}{}{m:#}", term::safe(text), m = term::MUTED);
        }
    }

    /// Says how it ended.
    fn end(&mut self, detail: &DeploymentDetail) -> ExitCode {
        self.close_step();
        // What is live already is where the caller wanted to get.
        let good = detail.state == DeploymentState::Live
            || detail.nothing_new && detail.state == DeploymentState::Superseded;
        if self.json {
            println!("{}", serde_json::to_string(detail).unwrap_or_default());
            return if good { ExitCode::SUCCESS } else { ExitCode::from(1) };
        }
        for warning in &detail.warnings {
            anstream::eprintln!("{w}warning:{w:#} {}", term::safe(&warning.0), w = term::WARN);
        }
        let took = term::span(self.begun.elapsed());
        if good && detail.nothing_new {
            anstream::eprintln!("{h}note:{h:#} {}", term::safe(&detail.next), h = term::HINT);
            println!("{}", term::safe(&detail.url));
            return ExitCode::SUCCESS;
        }
        if good {
            anstream::eprintln!("{g}{} is live{g:#} after {took}", detail.deployment, g = term::GOOD);
            // The one line on standard output, so that scripts can use it.
            println!("{}", term::safe(&detail.url));
            return ExitCode::SUCCESS;
        }
        anstream::eprintln!(
            "{b}{} is {}{b:#} after {took}",
            detail.deployment,
            detail.state.as_str(),
            b = term::BAD
        );
        match &detail.problem {
            Some(problem) => print_problem(problem),
            None => anstream::eprintln!("{h}hint:{h:#} {}", term::safe(&detail.next), h = term::HINT),
        }
        ExitCode::from(1)
    }

    /// Says that the deployment goes on without this terminal.
    fn detach(&self) -> ExitCode {
        match &self.deployment {
            Some(deployment) => {
                eprintln!(
                    "\nDetached; {deployment} goes on. Look: berth deployment get '{deployment}'. Stop it: berth deployment cancel '{deployment}'"
                );
            }
            None => eprintln!("\nInterrupted before the daemon named the deployment."),
        }
        ExitCode::from(130)
    }
}
