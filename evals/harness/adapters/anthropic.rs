//! Anthropic's Messages API.

use anyhow::{Result, bail};
use async_trait::async_trait;
use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use super::{
    Ask, Model, Turn, Want,
    chat::Said,
    http::{Client, secret},
};

const VERSION: &str = "2023-06-01";
/// Tokens of one answer.
const MOST: u32 = 4096;

/// A model behind it.
#[derive(Debug)]
pub(super) struct Messages {
    client: Client,
    model: String,
}

impl Messages {
    pub(super) fn new(base: String, key: String, model: String) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", secret(&key)?);
        headers.insert("anthropic-version", HeaderValue::from_static(VERSION));
        let url = format!("{}/v1/messages", base.trim_end_matches('/'));
        Ok(Self { client: Client::new(url, headers)?, model })
    }

    fn body(&self, ask: &Ask) -> Value {
        let mut tools: Vec<Value> = ask
            .tools
            .iter()
            .map(|t| json!({ "name": t.name, "description": t.description, "input_schema": t.schema }))
            .collect();
        // What stays the same at every turn is read from the cache: up to here.
        if let Some(last) = tools.last_mut() {
            last["cache_control"] = json!({ "type": "ephemeral" });
        }
        let messages: Vec<Value> = ask
            .turns
            .iter()
            .map(|turn| match turn {
                Turn::Person(text) => json!({ "role": "user", "content": text }),
                Turn::Model(message) => json!({ "role": "assistant", "content": message["content"] }),
                Turn::Tools(answers) => {
                    let blocks = answers.iter().map(|(id, text, error)| {
                        json!({ "type": "tool_result", "tool_use_id": id, "content": text, "is_error": error })
                    });
                    json!({ "role": "user", "content": blocks.collect::<Vec<_>>() })
                }
            })
            .collect();
        json!({
            "model": self.model, "max_tokens": MOST, "system": ask.system, "tools": tools, "messages": messages,
        })
    }
}

#[async_trait]
impl Model for Messages {
    async fn say(&self, ask: &Ask) -> Result<Said> {
        let message = self.client.post(&self.body(ask)).await?;
        let Some(blocks) = message["content"].as_array() else {
            bail!("a message without content: {message}")
        };
        let of = |kind: &'static str| blocks.iter().filter(move |b| b["type"] == kind);
        let text: Vec<&str> = of("text").filter_map(|b| b["text"].as_str()).collect();
        let wants = of("tool_use").map(|b| Want {
            id: b["id"].as_str().unwrap_or_default().to_owned(),
            name: b["name"].as_str().unwrap_or_default().to_owned(),
            input: Some(b["input"].clone()),
        });
        let trouble = match message["stop_reason"].as_str() {
            Some("tool_use" | "end_turn" | "stop_sequence" | "pause_turn") => None,
            Some(other) => Some(format!("the model stopped: {other}")),
            None => Some("the model did not say why it stopped".to_owned()),
        };
        let usage = &message["usage"];
        let count = |name: &str| usage[name].as_u64().unwrap_or(0);
        let billed =
            ["input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"];
        Ok(Said {
            text: text.join("\n"),
            wants: wants.collect(),
            trouble,
            billed: billed.iter().map(|name| count(name)).sum(),
            message: message.clone(),
        })
    }
}
