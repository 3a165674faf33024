//! Proposals: calls that a token may only propose, until a person approves them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Problem, Timestamp, Untrusted};

/// Where a proposal stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ProposalState {
    /// It waits for a person.
    Pending,
    /// It was approved and runs.
    Running,
    /// It was approved, and worked.
    Done,
    /// It was approved, and did not work.
    Failed,
    /// It was approved, and the daemon ended while it ran: whether it worked has to be looked at.
    Interrupted,
    /// A person said no.
    Rejected,
    /// Nobody decided within a week, or its token was revoked.
    Expired,
}

impl ProposalState {
    const ALL: [Self; 7] = [
        Self::Pending,
        Self::Running,
        Self::Done,
        Self::Failed,
        Self::Interrupted,
        Self::Rejected,
        Self::Expired,
    ];

    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// A proposed call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Proposal {
    /// Its number.
    pub proposal: i64,
    /// The tool that would be called.
    pub tool: String,
    /// Names of what it is about, such as app=shop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Untrusted>,
    /// Who proposed it: a token's name; with a grant, that and the grant's id.
    pub proposed_by: String,
    /// What the proposing program says that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Untrusted>,
    /// When it was proposed.
    pub proposed_at: Timestamp,
    /// Where it stands.
    pub state: ProposalState,
    /// Who decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<Timestamp>,
    /// Why it was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What went wrong when it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// Input of `proposal_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProposalList {
    /// Only those in this state. Default: pending.
    #[serde(default)]
    pub state: Option<ProposalState>,
    /// At most this many, 1 to 100. Default 20.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `proposal_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProposalPage {
    /// The proposals, newest first.
    pub proposals: Vec<Proposal>,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `proposal_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProposalGet {
    /// Its number.
    pub proposal: i64,
}

/// Output of `proposal_get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProposalDetail {
    /// The proposal.
    #[serde(flatten)]
    pub proposal: Proposal,
    /// The exact arguments as JSON, with secrets masked.
    pub arguments: Untrusted,
}

/// Input of `proposal_approve`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProposalApprove {
    /// Its number.
    pub proposal: i64,
    /// Its number again, as confirmation.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Input of `proposal_reject`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProposalReject {
    /// Its number.
    pub proposal: i64,
    /// Why, for whoever proposed it.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Output of `proposal_approve` and `proposal_reject`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProposalDecided {
    /// The proposal.
    #[serde(flatten)]
    pub proposal: Proposal,
    /// The exact arguments as JSON, with secrets masked.
    pub arguments: Untrusted,
    /// What the tool answered, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Untrusted>,
}
