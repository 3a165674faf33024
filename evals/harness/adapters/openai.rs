//! The chat-completions interface of OpenAI, which many servers of models have.

use anyhow::{Result, bail};
use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use serde_json::{Value, json};

use super::{
    Ask, Model, Turn, Want,
    chat::Said,
    http::{Client, secret},
};

/// A model behind it.
#[derive(Debug)]
pub(super) struct Completions {
    client: Client,
    model: String,
}

impl Completions {
    pub(super) fn new(base: String, key: String, model: String) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, secret(&format!("Bearer {key}"))?);
        let url = format!("{}/chat/completions", base.trim_end_matches('/'));
        Ok(Self { client: Client::new(url, headers)?, model })
    }

    fn body(&self, ask: &Ask) -> Value {
        let tools: Vec<Value> = ask
            .tools
            .iter()
            .map(|t| {
                let function =
                    json!({ "name": t.name, "description": t.description, "parameters": t.schema });
                json!({ "type": "function", "function": function })
            })
            .collect();
        let mut messages = vec![json!({ "role": "system", "content": ask.system })];
        for turn in &ask.turns {
            match turn {
                Turn::Person(text) => messages.push(json!({ "role": "user", "content": text })),
                Turn::Model(message) => messages.push(message.clone()),
                Turn::Tools(answers) => messages.extend(answers.iter().map(|(id, text, error)| {
                    let text = if *error { format!("Error: {text}") } else { text.clone() };
                    json!({ "role": "tool", "tool_call_id": id, "content": text })
                })),
            }
        }
        json!({ "model": self.model, "messages": messages, "tools": tools, "tool_choice": "auto" })
    }
}

#[async_trait]
impl Model for Completions {
    async fn say(&self, ask: &Ask) -> Result<Said> {
        let answer = self.client.post(&self.body(ask)).await?;
        let choice = &answer["choices"][0];
        let said = &choice["message"];
        if !said.is_object() {
            bail!("an answer without a message: {answer}");
        }
        let calls = said["tool_calls"].as_array().cloned().unwrap_or_default();
        let wants = calls.iter().map(|call| Want {
            id: call["id"].as_str().unwrap_or_default().to_owned(),
            name: call["function"]["name"].as_str().unwrap_or_default().to_owned(),
            // Models without arguments send an empty text.
            input: match call["function"]["arguments"].as_str().unwrap_or_default() {
                "" => Some(json!({})),
                text => serde_json::from_str(text).ok(),
            },
        });
        let trouble = match choice["finish_reason"].as_str() {
            Some("stop" | "tool_calls" | "function_call") => None,
            Some(other) => Some(format!("the model stopped: {other}")),
            None => Some("the model did not say why it stopped".to_owned()),
        };
        // Only what the interface takes back; servers add fields of their own.
        let mut message = json!({ "role": "assistant", "content": said["content"] });
        if !calls.is_empty() {
            message["tool_calls"] = Value::Array(calls.clone());
        }
        Ok(Said {
            text: said["content"].as_str().unwrap_or_default().to_owned(),
            wants: wants.collect(),
            trouble,
            billed: answer["usage"]["total_tokens"].as_u64().unwrap_or(0),
            message,
        })
    }
}
