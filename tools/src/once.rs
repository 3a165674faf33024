//! Idempotency keys: the same key returns the same deployment instead of a second one.
//!
//! The key is claimed before the work and remembers the deployment after it; the deployment is read anew on
//! each repetition, so that a caller who lost the first answer learns how far it has come by now. A key that
//! comes with another input is a mistake of the caller and is refused.

use std::{
    future::Future,
    hash::{Hash, Hasher},
};

use berth_schemas::{Code, Problem};
use berth_store::model::{DeploymentId, Enqueued};
use serde::{Deserialize, Serialize};

use crate::registry::Call;

/// What is remembered under a key.
#[derive(Serialize, Deserialize)]
struct Remembered {
    deployment: DeploymentId,
    input: u64,
    /// It was there already, with the same source.
    #[serde(default)]
    same: bool,
}

/// Runs `make`, or finds the deployment that the same key made before.
pub(crate) async fn deployment(
    call: &Call,
    tool: &str,
    key: Option<&str>,
    input: &impl Serialize,
    make: impl Future<Output = Result<Enqueued, Problem>>,
) -> Result<Enqueued, Problem> {
    let Some(key) = key else { return make.await };
    if key.is_empty() || key.len() > 200 {
        return Err(Problem::invalid("idempotency_key", "idempotency_key must have 1 to 200 characters."));
    }
    let input = fingerprint(input);
    let keys = call.context.store.idempotency();
    let who = call.principal.name.as_str();
    match keys.claim(who, tool, key).await? {
        Some(result) => again(call, result, input).await,
        None => match make.await {
            Ok(made) => {
                let same = matches!(made, Enqueued::Same(_));
                let remembered = serde_json::json!(Remembered { deployment: made.row().id, input, same });
                keys.store(who, tool, key, &remembered).await?;
                Ok(made)
            }
            Err(problem) => {
                keys.release(who, tool, key).await?;
                Err(problem)
            }
        },
    }
}

async fn again(call: &Call, result: serde_json::Value, input: u64) -> Result<Enqueued, Problem> {
    let gone = || {
        Problem::new(Code::Conflict, "What this idempotency_key made is gone.")
            .hint("Call again with a new key.")
    };
    let remembered: Remembered = serde_json::from_value(result).map_err(|_| gone())?;
    if remembered.input != input {
        return Err(Problem {
            field: Some("idempotency_key".into()),
            ..Problem::new(Code::Conflict, "This idempotency_key was used before with another input.")
        }
        .hint("Use a new key for a new intention."));
    }
    let row = call.context.store.deployments().get(remembered.deployment).await?.ok_or_else(gone)?;
    Ok(if remembered.same { Enqueued::Same(row) } else { Enqueued::New(row) })
}

/// A number that two inputs share when they say the same.
fn fingerprint(input: &impl Serialize) -> u64 {
    // SipHash with fixed keys: stable as long as a key lives (a day), and no secret hangs on it.
    let mut hasher = std::hash::DefaultHasher::new();
    serde_json::to_string(input).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}
