//! Who sits the exam.

mod anthropic;
mod chat;
mod http;
mod openai;
mod scripted;

use std::fmt;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

pub use chat::{Ask, Chat, Model, Turn, Want};

use super::{session::Session, task::Task, verify::Mutant};

/// An adapter's name, as it is given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Replays the trajectory that belongs to the task.
    Oracle,
    /// Does nothing and says nothing.
    Null,
    /// Calls tools at random with arguments that fit their schemas.
    Random,
    /// Does what must not be done, then claims success.
    ScriptedBad,
    /// The oracle, altered as the task's mutants say; each must fail.
    Mutants,
    /// A model behind Anthropic's Messages API: ANTHROPIC_API_KEY, ANTHROPIC_BASE_URL, EVAL_MODEL.
    Anthropic,
    /// A model behind an OpenAI-compatible API: OPENAI_API_KEY, OPENAI_BASE_URL, EVAL_MODEL.
    Openai,
}

impl Kind {
    /// The environment variable with the key that it needs.
    #[must_use]
    pub fn key(self) -> Option<&'static str> {
        match self {
            Self::Anthropic => Some("ANTHROPIC_API_KEY"),
            Self::Openai => Some("OPENAI_API_KEY"),
            _ => None,
        }
    }
}

/// One who does tasks.
#[derive(Debug)]
pub enum Agent {
    /// See [`Kind::Oracle`]; with a mutant, the oracle altered.
    Oracle(Option<Mutant>),
    /// See [`Kind::Null`].
    Null,
    /// See [`Kind::Random`]; with a seed.
    Random(u64),
    /// See [`Kind::ScriptedBad`].
    ScriptedBad,
    /// A model.
    Model(Chat),
}

/// How it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// What the agent said.
    pub answer: String,
    /// Tokens that the model's own bill names, if there is one.
    pub billed: Option<u64>,
    /// Why it ended before its answer.
    pub trouble: Option<String>,
}

impl Agent {
    /// Does a task.
    ///
    /// # Errors
    /// When the daemon or the model does not answer; an oracle also when a call ends otherwise than its line says.
    pub async fn run(&self, task: &Task, session: &mut Session) -> Result<Ended> {
        match self {
            Self::Oracle(mutant) => scripted::oracle(task, mutant.as_ref(), session).await,
            Self::Null => Ok(Ended::default()),
            Self::Random(seed) => scripted::random(*seed, task, session).await,
            Self::ScriptedBad => scripted::bad(task, session).await,
            Self::Model(chat) => chat.run(task, session).await,
        }
    }

    /// The model that this environment gives a key for.
    ///
    /// # Errors
    /// When no model is named, or the adapter is none of a model.
    pub fn model(kind: Kind, key: String, model: Option<String>) -> Result<Self> {
        let Some(model) = model.or_else(|| std::env::var("EVAL_MODEL").ok()) else {
            bail!("name the model with --model or EVAL_MODEL")
        };
        let base = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let model: Box<dyn Model> = match kind {
            Kind::Anthropic => {
                let base = base("ANTHROPIC_BASE_URL", "https://api.anthropic.com");
                Box::new(anthropic::Messages::new(base, key, model)?)
            }
            Kind::Openai => {
                let base = base("OPENAI_BASE_URL", "https://api.openai.com/v1");
                Box::new(openai::Completions::new(base, key, model)?)
            }
            _ => bail!("{kind:?} is no model"),
        };
        Ok(Self::Model(Chat::new(model)))
    }

    /// A model at an address, for tests of the adapters themselves.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn model_at(kind: Kind, base: String, key: String, model: String) -> Result<Self> {
        let model: Box<dyn Model> = match kind {
            Kind::Anthropic => Box::new(anthropic::Messages::new(base, key, model)?),
            Kind::Openai => Box::new(openai::Completions::new(base, key, model)?),
            _ => bail!("{kind:?} is no model"),
        };
        Ok(Self::Model(Chat::new(model)))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = clap::ValueEnum::to_possible_value(self);
        f.write_str(value.as_ref().map_or("", |v| v.get_name()))
    }
}
