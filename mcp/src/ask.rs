//! Asking the person before something is destroyed, where the client can: the call is answered with a question,
//! and the client calls again with the answer. Elsewhere the argument `confirm` does the same.
//!
//! Nothing is kept between the two calls. The seal that travels with the question covers who asked, what for and
//! what the person was told; if any of it has changed by the second call, they are asked again.

use std::time::Duration;

use berth_schemas::{Code, Problem};
use berth_tools::Tool;
use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ElicitRequest, ElicitRequestParams, ElicitResult,
    ElicitationAction, InputRequest, InputRequests, InputRequiredResult, RequestStateCodec, SealOptions,
};
use serde_json::{Value, json};

/// Name of the question, and of the one field of its form.
const CONFIRM: &str = "confirm";
/// How long an answer counts.
const VALID: Duration = Duration::from_secs(600);

/// Seals questions. Its key is as old as the process: what was asked before a restart is asked again.
#[derive(Clone)]
pub(crate) struct Asker(RequestStateCodec);

/// What a person said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Yes,
    No,
}

impl Asker {
    pub(crate) fn new() -> Option<Self> {
        let mut key = [0_u8; 32];
        // Without randomness there is no seal, and so no question: `confirm` remains.
        getrandom::fill(&mut key).ok()?;
        RequestStateCodec::try_new(key.to_vec()).ok().map(Self)
    }

    /// The question for a refusal that a confirmation would turn into a deed.
    pub(crate) fn question(&self, about: &About<'_>) -> Option<InputRequiredResult> {
        let field = json!({
            "type": "boolean", "title": "Do it", "description": "Whether the assistant may do this.", "default": false,
        });
        let schema = json!({ "type": "object", "properties": { CONFIRM: field }, "required": [CONFIRM] });
        let asked =
            InputRequest::Elicitation(ElicitRequest::new(ElicitRequestParams::FormElicitationParams {
                meta: None,
                message: about.problem.detail.clone(),
                requested_schema: serde_json::from_value(schema).ok()?,
            }));
        let sealed = self.0.seal_with(b"", &SealOptions::new().associated_data(&about.sealed()).ttl(VALID));
        let asked = InputRequests::from([(CONFIRM.to_owned(), asked)]);
        Some(InputRequiredResult::new(Some(asked), Some(sealed)))
    }

    /// What the person said to exactly this, if they were asked and have answered.
    pub(crate) fn said(&self, request: &CallToolRequestParams, about: &About<'_>) -> Option<Said> {
        let state = request.request_state.as_deref()?;
        let answer = request.input_responses.as_ref()?.get(CONFIRM)?;
        self.0.open_with(state, &about.sealed()).ok()?;
        let answer: ElicitResult = serde_json::from_value(answer.clone()).ok()?;
        let agreed = answer.content.as_ref().is_some_and(|c| c[CONFIRM] == true);
        Some(match answer.action {
            ElicitationAction::Accept if agreed => Said::Yes,
            _ => Said::No,
        })
    }
}

/// What a question is about.
#[derive(Clone, Copy)]
pub(crate) struct About<'a> {
    /// Who calls.
    pub(crate) principal: &'a str,
    /// Which tool.
    pub(crate) tool: &'a str,
    /// With what.
    pub(crate) input: &'a Value,
    /// Why it was refused: names what would happen, and what to confirm with.
    pub(crate) problem: &'a Problem,
}

impl About<'_> {
    fn sealed(&self) -> Vec<u8> {
        json!([self.principal, self.tool, self.input, self.problem.detail, self.problem.candidates])
            .to_string()
            .into_bytes()
    }

    /// The input with the confirmation.
    pub(crate) fn confirmed(&self) -> Option<Value> {
        let mut input = self.input.clone();
        input.as_object_mut()?.insert(CONFIRM.into(), self.problem.candidates.first()?.clone().into());
        Some(input)
    }
}

/// Whether a person can be asked before this call: it would want a confirmation, has none, and the client shows
/// forms.
pub(crate) fn possible(tool: &Tool, input: &Value, client: Option<&ClientCapabilities>) -> bool {
    let forms =
        client.and_then(|c| c.elicitation.as_ref()).is_some_and(|e| e.form.is_some() || e.url.is_none());
    forms && tool.input["properties"][CONFIRM].is_object() && input.get(CONFIRM).is_none_or(Value::is_null)
}

/// What the model reads when the person said no.
pub(crate) fn declined(tool: &str) -> Problem {
    Problem::new(Code::ConfirmationRequired, format!("The person was asked and said no: {tool} did nothing."))
        .hint("Do not try it again or in another way unless they ask for it.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_only_for_what_was_asked() {
        let asker = Asker::new().unwrap();
        let input = json!({ "app": "web" });
        let problem = Problem::new(Code::ConfirmationRequired, "It would: remove 3 releases.")
            .candidates(vec!["web".into()]);
        let about = About { principal: "ada", tool: "app_delete", input: &input, problem: &problem };
        let question = asker.question(&about).unwrap();
        let asked = serde_json::to_value(&question).unwrap();
        assert_eq!(asked["inputRequests"]["confirm"]["params"]["message"], "It would: remove 3 releases.");

        let mut request = CallToolRequestParams::new("app_delete");
        request.request_state = question.request_state;
        assert_eq!(asker.said(&request, &about), None, "nobody has answered");
        let mut answer = |action: &str, content: Value| {
            let said = json!({ "action": action, "content": content });
            request.input_responses = Some([("confirm".to_owned(), said)].into());
            request.clone()
        };
        assert_eq!(asker.said(&answer("decline", Value::Null), &about), Some(Said::No));
        assert_eq!(asker.said(&answer("accept", json!({ "confirm": false })), &about), Some(Said::No));
        let yes = answer("accept", json!({ "confirm": true }));
        assert_eq!(asker.said(&yes, &about), Some(Said::Yes));
        assert_eq!(about.confirmed().unwrap(), json!({ "app": "web", "confirm": "web" }));

        let more = Problem { detail: "It would: remove 4 releases.".into(), ..problem.clone() };
        let other = json!({ "app": "shop" });
        for changed in [
            About { principal: "bob", ..about },
            About { tool: "app_stop", ..about },
            About { input: &other, ..about },
            About { problem: &more, ..about },
        ] {
            assert_eq!(asker.said(&yes, &changed), None);
        }
        assert_eq!(Asker::new().unwrap().said(&yes, &about), None, "nor for another process");
    }

    #[test]
    fn only_clients_with_forms_are_asked() {
        let registry = berth_tools::registry();
        let delete = registry.get("app_delete").unwrap();
        let can = |elicitation: Value| -> ClientCapabilities {
            serde_json::from_value(json!({ "elicitation": elicitation })).unwrap()
        };
        let (plain, input) = (can(json!({})), json!({ "app": "web" }));
        assert!(
            possible(delete, &input, Some(&plain))
                && possible(delete, &input, Some(&can(json!({ "form": {} }))))
        );
        assert!(!possible(delete, &input, Some(&can(json!({ "url": {} })))));
        assert!(
            !possible(delete, &input, None)
                && !possible(delete, &input, Some(&ClientCapabilities::default()))
        );
        assert!(!possible(delete, &json!({ "app": "web", "confirm": "web" }), Some(&plain)));
        assert!(!possible(registry.get("app_get").unwrap(), &input, Some(&plain)));
    }
}
