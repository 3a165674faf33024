//! A model with tools: it is told the task, calls what it likes, and ends with words.

use std::fmt;

use anyhow::Result;
use async_trait::async_trait;
use serde_json::Value;

use super::Ended;
use crate::harness::{session::Session, task::Task};

/// What a model is told besides the server's own instructions.
const ROLE: &str = "You operate a server by the tools that you are given. Do exactly what the person asks, and nothing \
    else. When you are done, or cannot do it, end with a short answer that states what you found or did, with exact names \
    and values. Nobody answers questions: decide by yourself, and if the right thing is to do nothing, say so and why.";

/// A tool as a model is told of it.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Name.
    pub name: String,
    /// Description.
    pub description: String,
    /// JSON Schema of its input.
    pub schema: Value,
}

/// What is sent to a model.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Who it is and what the server says.
    pub system: String,
    /// The tools.
    pub tools: Vec<Offer>,
    /// What was said so far.
    pub turns: Vec<Turn>,
}

/// A part of the conversation.
#[derive(Debug, Clone)]
pub enum Turn {
    /// The person's words.
    Person(String),
    /// The model's own message, as its interface had it.
    Model(Value),
    /// What the tools answered: id, text, whether it is an error.
    Tools(Vec<(String, String, bool)>),
}

/// What a model says.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its message, to be sent back as it is.
    pub message: Value,
    /// Its words.
    pub text: String,
    /// What it wants called.
    pub wants: Vec<Want>,
    /// It was cut, refused or failed otherwise.
    pub trouble: Option<String>,
    /// Tokens that were billed.
    pub billed: u64,
}

/// A call that a model wants.
#[derive(Debug, Clone)]
pub struct Want {
    /// Its id.
    pub id: String,
    /// The tool.
    pub name: String,
    /// The input; none if it is no JSON.
    pub input: Option<Value>,
}

/// The interface of a kind of model.
#[async_trait]
pub trait Model: fmt::Debug + Send + Sync {
    /// One turn.
    async fn say(&self, ask: &Ask) -> Result<Said>;
}

/// A model that does tasks.
#[derive(Debug)]
pub struct Chat {
    model: Box<dyn Model>,
}

impl Chat {
    /// With this model.
    #[must_use]
    pub fn new(model: Box<dyn Model>) -> Self {
        Self { model }
    }

    pub(super) async fn run(&self, task: &Task, session: &mut Session) -> Result<Ended> {
        let tools = session.tools().iter().map(|tool| Offer {
            name: tool.name.to_string(),
            description: tool.description.clone().unwrap_or_default().into_owned(),
            schema: Value::Object((*tool.input_schema).clone()),
        });
        let mut ask = Ask {
            system: format!("{ROLE}\n\n{}", session.instructions()),
            tools: tools.collect(),
            turns: vec![Turn::Person(task.brief())],
        };
        let mut billed = 0;
        // One turn more than calls, for the answer, and a few in which it is told that none are left.
        for _ in 0..task.budget.calls + 4 {
            let said = self.model.say(&ask).await?;
            billed += said.billed;
            if said.wants.is_empty() || said.trouble.is_some() {
                return Ok(Ended { answer: said.text, billed: Some(billed), trouble: said.trouble });
            }
            ask.turns.push(Turn::Model(said.message));
            let mut answers = Vec::new();
            for want in said.wants {
                let answer = match want.input {
                    Some(input) => {
                        let done = session.call(&want.name, input).await?;
                        (want.id, done.text.clone(), done.error.is_some())
                    }
                    None => (want.id, "The arguments are not valid JSON.".to_owned(), true),
                };
                answers.push(answer);
            }
            ask.turns.push(Turn::Tools(answers));
        }
        let trouble = Some("it went on calling when no calls were left".to_owned());
        Ok(Ended { answer: String::new(), billed: Some(billed), trouble })
    }
}
