//! What happens to this instance's containers, as the engine tells it.

use std::collections::HashMap;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::{StreamExt, TryStreamExt, future, stream};

use super::client::Docker;
use super::engine::{ContainerId, EngineEvent, EngineEventKind, EventStream};

impl Docker {
    pub(super) fn container_events(&self, since_nanos: Option<i64>) -> EventStream {
        let docker = self.clone();
        let mut filters = self.own_filter();
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        let since = since_nanos
            .map(|n| format!("{}.{:09}", n.div_euclid(1_000_000_000), n.rem_euclid(1_000_000_000)));
        let options = EventsOptions { since, until: None, filters: Some(filters) };
        stream::once(async move {
            let client = docker.client().await?;
            let lost = docker.clone();
            let events = client.events(Some(options)).then(move |message| {
                let docker = docker.clone();
                async move {
                    match message {
                        Ok(message) => Ok(event_of(message)),
                        Err(error) => Err(docker.translate("watching Docker's events", error).await),
                    }
                }
            });
            // The engine never ends this stream by itself: an end is a loss.
            Ok(events.chain(stream::once(async move { Err(lost.unreachable().await) })))
        })
        .try_flatten()
        .try_filter_map(future::ok)
        .boxed()
    }
}

/// `None` for messages that say nothing about a container.
fn event_of(message: EventMessage) -> Option<EngineEvent> {
    let actor = message.actor?;
    let mut labels = actor.attributes.unwrap_or_default();
    let action = message.action?;
    Some(EngineEvent {
        kind: kind_of(&action, &mut labels)?,
        container: ContainerId::parse(&actor.id?).ok()?,
        labels: labels.into_iter().filter(|(name, _)| !matches!(name.as_str(), "image" | "name")).collect(),
        at_nanos: message.time_nano.or_else(|| message.time?.checked_mul(1_000_000_000))?,
    })
}

/// The attributes of a container event are its labels, and beside them some values of the event itself.
fn kind_of(action: &str, attributes: &mut HashMap<String, String>) -> Option<EngineEventKind> {
    let exit_code = attributes.remove("exitCode").and_then(|code| code.parse().ok());
    let signal = attributes.remove("signal").and_then(|number| number.parse().ok());
    attributes.remove("execDuration");
    Some(match action {
        "create" => EngineEventKind::Create,
        "start" => EngineEventKind::Start,
        "die" => EngineEventKind::Die { exit_code: exit_code.unwrap_or(-1) },
        "oom" => EngineEventKind::Oom,
        "stop" => EngineEventKind::Stop,
        "kill" => EngineEventKind::Kill { signal: signal.unwrap_or_default() },
        "destroy" => EngineEventKind::Destroy,
        "rename" => EngineEventKind::Rename,
        // Health checks inside of images come every few seconds and are not ours.
        other if other.starts_with("exec_") || other.starts_with("health_status") || other == "top" => {
            return None;
        }
        other => EngineEventKind::Other(other.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::EventActor;

    fn message(action: &str, attributes: &[(&str, &str)]) -> EventMessage {
        EventMessage {
            action: Some(action.into()),
            actor: Some(EventActor {
                id: Some("0123456789abcdef".into()),
                attributes: Some(attributes.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()),
            }),
            time_nano: Some(7),
            ..Default::default()
        }
    }

    #[test]
    fn the_end_of_a_container_has_its_code_and_labels() {
        let event = event_of(message(
            "die",
            &[("exitCode", "137"), ("name", "web"), ("image", "x"), ("berth.app", "web")],
        ))
        .unwrap();
        assert_eq!(event.kind, EngineEventKind::Die { exit_code: 137 });
        assert_eq!(event.labels.into_iter().collect::<Vec<_>>(), [("berth.app".into(), "web".into())]);
    }

    #[test]
    fn noise_is_left_out_and_the_unknown_is_kept_by_name() {
        assert_eq!(event_of(message("exec_start: sh", &[])), None);
        assert_eq!(event_of(message("pause", &[])).unwrap().kind, EngineEventKind::Other("pause".into()));
    }
}
