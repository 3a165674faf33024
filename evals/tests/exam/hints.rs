//! Whether tools do what their hints and schemas say: who only reads writes nothing, who is idempotent comes to the same
//! state twice, and who is called wrongly says which field is wrong and leaves everything as it is.

use std::{collections::BTreeMap, sync::Arc};

use berth_evals::harness::{
    arguments::{least, wrong},
    path,
    session::Session,
    state,
    world::{Place, Worlds},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{berth, root, store};

/// The world that has something for every tool.
pub(crate) const WORLD: &str = "yard";

/// A line of `inputs.jsonl`: a call that is right in [`WORLD`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Input {
    pub(crate) tool: String,
    arguments: Value,
    /// A tool that starts the job which this one is about.
    job_of: Option<String>,
    /// The code with which the world refuses it all the same; `*` is any.
    refused: Option<String>,
    /// Why it cannot be called here.
    pub(crate) skip: Option<String>,
    /// Tables that a reading tool writes and says so.
    #[serde(default)]
    writes: Vec<String>,
}

impl Input {
    /// As written, for those who are not to get as far as being answered.
    pub(crate) fn written(&self) -> &Value {
        &self.arguments
    }

    /// What to call it with in this place. A job that it is about has been started, and has ended.
    pub(crate) async fn arguments(&self, place: &Place) -> Value {
        let mut arguments = self.arguments.clone();
        if let Some(tool) = &self.job_of {
            let (_, started) = place.api.raw(tool, &inputs()[tool].arguments).await.unwrap();
            // Where it has been done already, no job is started, and this one is not found.
            if let Some(job) = started["job"]["job"].as_str() {
                place.api.call("job_get", json!({ "job": job, "wait_s": 30 })).await.unwrap();
                arguments["job"] = job.into();
            }
        }
        arguments
    }
}

pub(crate) fn inputs() -> BTreeMap<String, Input> {
    let lines = include_str!("inputs.jsonl").lines();
    let inputs = lines.map(|l| serde_json::from_str::<Input>(l).unwrap_or_else(|e| panic!("{l}: {e}")));
    inputs.map(|i| (i.tool.clone(), i)).collect()
}

/// Worlds of the built daemon, if there is one, in which the limit on what destroys does not answer before the tools.
fn worlds() -> Option<Arc<Worlds>> {
    berth().map(|berth| Arc::new(Worlds::new(berth, root().to_path_buf()).unhurried()))
}

async fn admin(place: &Place) -> Session {
    Session::open(place.daemon.control, &place.daemon.token, "tools=all", 100_000).await.unwrap()
}

#[tokio::test]
async fn who_only_reads_writes_nothing() {
    let Some(worlds) = worlds() else { return };
    let place = worlds.place(WORLD).await.unwrap();
    let inputs = inputs();
    let mut found = Vec::new();
    for (tool, hints) in place.api.tools().iter().filter(|(_, h)| h.read_only) {
        let Some(input) = inputs.get(tool) else {
            found.push(format!("tests/exam/inputs.jsonl has no line for {tool}"));
            continue;
        };
        let arguments = input.arguments(&place).await;
        let before = store::dump(&place.daemon.data()).await;
        let (status, answer) = place.api.raw(tool, &arguments).await.unwrap();
        let code = answer["code"].as_str().filter(|_| status >= 300);
        if code != input.refused.as_deref() || status >= 500 {
            found.push(format!("{tool} answers {status}: {answer}"));
        }
        let mut written = store::changed(&before, &store::dump(&place.daemon.data()).await);
        written.retain(|table| !input.writes.contains(table));
        if !written.is_empty() || hints.destructive || !hints.idempotent {
            found.push(format!("{tool} writes {written:?}, and is said to be {hints:?}"));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn who_is_idempotent_comes_to_the_same_state_twice() {
    let Some(worlds) = worlds() else { return };
    let inputs = inputs();
    let place = worlds.place(WORLD).await.unwrap();
    let writers: Vec<String> = place
        .api
        .tools()
        .iter()
        .filter(|(_, h)| h.idempotent && !h.read_only)
        .filter(|(name, _)| inputs.get(*name).is_some_and(|i| i.skip.is_none()))
        .map(|(name, _)| name.clone())
        .collect();
    let mut place = place;
    let mut found = Vec::new();
    for tool in writers {
        let input = &inputs[&tool];
        let mut ends = Vec::new();
        let arguments = input.arguments(&place).await;
        for _ in 0..2 {
            let (status, answer) = place.api.raw(&tool, &arguments).await.unwrap();
            if let Some(job) = answer["job"]["job"].as_str() {
                place.api.call("job_get", json!({ "job": job, "wait_s": 30 })).await.unwrap();
            }
            if status >= 500 {
                found.push(format!("{tool} answers {status}: {answer}"));
            }
            ends.push(timeless(state::read(&place.api).await.unwrap()));
        }
        let differs = path::differences(&ends[0], &ends[1]);
        if !differs.is_empty() {
            found.push(format!("{tool}: the second call changed {differs:?}"));
        }
        // What was changed must not be in the next one's way.
        if ends[0] != timeless((*place.before).clone()) {
            place = worlds.place(WORLD).await.unwrap();
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Without the times at which something was set: setting it again is setting it later.
fn timeless(mut state: Value) -> Value {
    match &mut state {
        Value::Object(map) => {
            map.remove("updated_at");
            map.values_mut().for_each(|v| *v = timeless(v.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|v| *v = timeless(v.take())),
        _ => {}
    }
    state
}

/// Whether a path such as `target.to[0]` leads to this field.
fn ends_in(path: &str, field: &str) -> bool {
    path.split(['.', '[']).any(|part| part == field)
}

#[tokio::test]
async fn who_is_called_wrongly_says_what_is_wrong_and_changes_nothing() {
    let Some(worlds) = worlds() else { return };
    let place = worlds.place(WORLD).await.unwrap();
    let inputs = inputs();
    let mut session = admin(&place).await;
    let tools: Vec<(String, Value)> = session
        .tools()
        .iter()
        .map(|t| (t.name.to_string(), Value::Object((*t.input_schema).clone())))
        .collect();
    let (mut found, mut tried) = (Vec::new(), 0);
    for (tool, shown) in &tools {
        // The list leaves out patterns, which the schema files have.
        let file = root().join(format!("../schemas/tools/{tool}.json"));
        let schema: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert_eq!(shown["required"], schema["input"]["required"], "{tool}");
        let right = inputs.get(tool).map_or_else(|| least(&schema["input"]), |i| i.arguments.clone());
        let before = store::dump(&place.daemon.data()).await;
        for wrong in wrong(&schema["input"], &right) {
            tried += 1;
            let done = session.call(tool, wrong.input.clone()).await.unwrap();
            let how = format!("{tool}, {}", wrong.how);
            match done.error.as_deref() {
                None => found.push(format!("{how}: accepted: {}", done.text)),
                Some("internal" | "protocol") => found.push(format!("{how}: {}", done.text)),
                Some(_) => {
                    let problem = &done.structured["problem"];
                    let named = problem["field"].as_str().is_some_and(|f| ends_in(f, &wrong.field))
                        || done.text.contains(&wrong.field);
                    if !named {
                        found.push(format!("{how}: {} (field {})", done.text, problem["field"]));
                    }
                }
            }
            if wrong.right_as_text && place.api.is_query(tool) {
                continue;
            }
            let by_rest = place.api.raw(tool, &wrong.input).await;
            if let Ok((status, answer)) = by_rest
                && !(300..500).contains(&status)
            {
                found.push(format!("{how}: by REST {status}: {answer}"));
            }
        }
        let written = store::changed(&before, &store::dump(&place.daemon.data()).await);
        if !written.is_empty() {
            found.push(format!("{tool}: {written:?} changed by calls that were wrong"));
        }
    }
    println!("{tried} wrong inputs");
    assert!(found.is_empty(), "{} of {tried}: {found:#?}", found.len());
}
