//! What the tools say of themselves, as a client gets it: schemas that every model's interface takes, texts that are there,
//! a list within its budget, and answers that keep to their schemas.

use berth_evals::harness::{
    session::{Session, tokens},
    world::{Place, Worlds},
};
use serde_json::{Value, json};

use crate::{
    berth, command_line,
    hints::{self, WORLD},
    root,
};

/// Bytes of one tool in the default list: name, texts, hints and both schemas.
const LARGEST: usize = 6_500;

/// Calls `check` for every schema within a schema.
fn each(schema: &Value, place: &str, check: &mut impl FnMut(&Value, &str)) {
    check(schema, place);
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        each(inner, &format!("{place}/{name}"), check);
    }
    for name in ["items", "additionalProperties"] {
        if schema[name].is_object() {
            each(&schema[name], &format!("{place}/{name}"), check);
        }
    }
    for name in ["oneOf", "anyOf", "allOf"] {
        for inner in schema[name].as_array().into_iter().flatten() {
            each(inner, &format!("{place}/{name}"), check);
        }
    }
}

#[tokio::test]
async fn tools_are_described_for_every_client() {
    let Some(berth) = berth() else { return };
    let place = Worlds::new(berth, root().to_path_buf()).place("empty").await.unwrap();
    let (control, token) = (place.daemon.control, &place.daemon.token);
    let all = Session::open(control, token, "tools=all", 1).await.unwrap();
    let mut found = Vec::new();
    for tool in all.tools() {
        let name = &*tool.name;
        let mut wrong = |what: String| found.push(format!("{name}: {what}"));
        let lower = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if !lower || !name.contains('_') || name.len() > 40 {
            wrong("is no noun_verb of at most 40 characters".into());
        }
        let length = tool.description.as_deref().unwrap_or_default().len();
        if tool.title.is_none() || !(20..=700).contains(&length) {
            wrong(format!("its description has {length} characters, or it has no title"));
        }
        let hints = tool.annotations.clone().unwrap_or_default();
        let said =
            [hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint];
        if said.iter().any(Option::is_none) {
            wrong("a hint is missing".into());
        }
        let schema = Value::Object((*tool.input_schema).clone());
        if schema["type"] != "object" || schema["additionalProperties"] != false {
            wrong("its input is not an object without other fields".into());
        }
        if !jsonschema::meta::is_valid(&schema) {
            wrong("its input's schema is no JSON Schema".into());
        }
        each(&schema, "", &mut |inner, place| {
            let numbered =
                inner["format"].as_str().is_some_and(|f| f.starts_with("int") || f.starts_with("uint"));
            if inner["type"].is_array() || numbered || inner.get("$schema").is_some() {
                wrong(format!("{place}: {inner} is not portable"));
            }
        });
        for (field, inner) in schema["properties"].as_object().into_iter().flatten() {
            if inner["description"].as_str().is_none_or(str::is_empty) {
                wrong(format!("{field} is not described"));
            }
        }
    }
    let short = Session::open(control, token, "", 1).await.unwrap();
    let list = serde_json::to_string(short.tools()).unwrap();
    println!("{} tools, {} bytes, about {} tokens", short.tools().len(), list.len(), tokens(&list));
    if short.tools().len() > 25 || tokens(&list) > 8_000 {
        found.push(format!("the list has {} tools and {} tokens", short.tools().len(), tokens(&list)));
    }
    for tool in short.tools() {
        let bytes = serde_json::to_string(tool).unwrap().len();
        if bytes > LARGEST {
            found.push(format!("{} takes {bytes} bytes of the list", tool.name));
        }
    }
    let instructions = short.instructions().chars().count();
    if !(500..=2_048).contains(&instructions) {
        found.push(format!("the instructions have {instructions} characters"));
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn answers_keep_to_their_schemas() {
    let Some(berth) = berth() else { return };
    let worlds = Worlds::new(berth.clone(), root().to_path_buf()).unhurried();
    let place = worlds.place(WORLD).await.unwrap();
    // First, while everything is there that readers are asked for.
    let (mut found, mut checked) = (command_line::readers(&berth, &place).await, 0);
    for (tool, input) in hints::inputs() {
        if input.skip.is_some() {
            continue;
        }
        let (status, answer) = place.api.raw(&tool, &input.arguments(&place).await).await.unwrap();
        if let Some(job) = answer["job"]["job"].as_str() {
            place.api.call("job_get", json!({ "job": job, "wait_s": 30 })).await.unwrap();
        }
        if status >= 300 {
            continue;
        }
        let file = root().join(format!("../schemas/tools/{tool}.json"));
        let schema: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let validator = jsonschema::draft202012::new(&schema["output"]).unwrap();
        checked += 1;
        found.extend(validator.iter_errors(&answer).map(|e| format!("{tool}: {e}: {answer}")));
    }
    found.extend(by_mcp(&place).await);
    // Once more from the beginning, for those that write.
    found.extend(writers_by_mcp(&worlds.place(WORLD).await.unwrap()).await);
    println!("{checked} answers");
    assert!(checked >= 40, "only {checked} tools answered");
    assert!(found.is_empty(), "{found:#?}");
}

/// What readers answer by MCP, concise and in detail, held against the schemas that the list itself shows.
async fn by_mcp(place: &Place) -> Vec<String> {
    let mut session =
        Session::open(place.daemon.control, &place.daemon.token, "tools=all", 10_000).await.unwrap();
    let (mut found, mut checked) = (Vec::new(), 0);
    let inputs = hints::inputs();
    for tool in session.tools().to_vec() {
        let name = tool.name.as_ref();
        let Some(schema) = tool.output_schema else {
            found.push(format!("{name} has no schema of its output in the list"));
            continue;
        };
        let reads = tool.annotations.is_some_and(|a| a.read_only_hint == Some(true));
        let Some(input) = inputs.get(name).filter(|_| reads) else { continue };
        let validator = jsonschema::draft202012::new(&Value::Object((*schema).clone())).unwrap();
        for format in ["concise", "detailed"] {
            let mut arguments = input.arguments(place).await;
            if tool.input_schema.get("properties").is_some_and(|p| p.get("response_format").is_some()) {
                arguments["response_format"] = json!(format);
            }
            let done = session.call(name, arguments).await.unwrap();
            if done.error.is_some() {
                continue;
            }
            checked += 1;
            let faults = validator.iter_errors(&done.structured);
            found.extend(faults.map(|e| format!("{name} by MCP, {format}: {e}: {}", done.structured)));
        }
    }
    println!("{checked} answers by MCP");
    assert!(checked >= 40, "only {checked} readers answered by MCP");
    found
}

/// The same for what writes, as it comes: what one destroys, the next may miss, which is an answer, too.
async fn writers_by_mcp(place: &Place) -> Vec<String> {
    let mut session =
        Session::open(place.daemon.control, &place.daemon.token, "tools=all", 10_000).await.unwrap();
    let (mut found, mut checked) = (Vec::new(), 0);
    let inputs = hints::inputs();
    for tool in session.tools().to_vec() {
        let name = tool.name.as_ref();
        let reads = tool.annotations.is_some_and(|a| a.read_only_hint == Some(true));
        let Some(input) = inputs.get(name).filter(|i| !reads && i.skip.is_none()) else { continue };
        let Some(schema) = tool.output_schema else { continue };
        let done = session.call(name, input.arguments(place).await).await.unwrap().clone();
        if let Some(job) = done.structured["job"]["job"].as_str() {
            place.api.call("job_get", json!({ "job": job, "wait_s": 30 })).await.unwrap();
        }
        if done.error.is_some() {
            continue;
        }
        checked += 1;
        let validator = jsonschema::draft202012::new(&Value::Object((*schema).clone())).unwrap();
        let faults = validator.iter_errors(&done.structured);
        found.extend(faults.map(|e| format!("{name} by MCP: {e}: {}", done.structured)));
    }
    println!("{checked} answers of writers by MCP");
    assert!(checked >= 30, "only {checked} writers answered by MCP");
    found
}
