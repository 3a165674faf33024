//! What happens to this instance's containers, as the engine tells it.

use std::collections::HashMap;

use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptions;
use futures_util::{StreamExt, TryStreamExt, future, stream};

use super::client::Docker;
use super::engine::{ContainerId, EngineEvent, EngineEventKind, EventStream};
use super::labels::{InstanceId, Labels};

impl Docker {
    pub(super) fn container_events(&self, since_nanos: Option<i64>) -> EventStream {
        let docker = self.clone();
        // Events of networks do not carry the labels of containers, so what is ours is picked out here.
        let types = vec!["container".to_owned(), "network".to_owned()];
        let filters = HashMap::from([("type".to_owned(), types)]);
        let instance = self.instance();
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
                        Ok(message) => Ok(event_of(message, instance)),
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

/// `None` for messages that say nothing about a container of this instance.
fn event_of(message: EventMessage, instance: InstanceId) -> Option<EngineEvent> {
    let actor = message.actor?;
    let mut labels = actor.attributes.unwrap_or_default();
    let action = message.action?;
    let at_nanos = message.time_nano.or_else(|| message.time?.checked_mul(1_000_000_000))?;
    if message.typ == Some(EventMessageTypeEnum::NETWORK) {
        let own = labels.get("name").is_some_and(|name| instance.owns_network(name));
        let container = ContainerId::parse(labels.get("container")?).ok()?;
        let kind = EngineEventKind::Disconnect;
        return (own && action == "disconnect").then(|| EngineEvent {
            kind,
            container,
            labels: Labels::new(),
            at_nanos,
        });
    }
    let kind = kind_of(&action, &mut labels)?;
    let labels: Labels =
        labels.into_iter().filter(|(name, _)| !matches!(name.as_str(), "image" | "name")).collect();
    let container = ContainerId::parse(&actor.id?).ok()?;
    instance.owns(&labels).then_some(EngineEvent { kind, container, labels, at_nanos })
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
        "pause" => EngineEventKind::Pause,
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

    fn instance() -> InstanceId {
        InstanceId::new(uuid::Uuid::from_u128(7 << 96))
    }

    fn message(action: &str, attributes: &[(&str, &str)]) -> EventMessage {
        let own = instance().labels();
        let own = own.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let all = own.chain(attributes.iter().copied()).map(|(k, v)| (k.into(), v.into())).collect();
        EventMessage {
            action: Some(action.into()),
            actor: Some(EventActor { id: Some("0123456789abcdef".into()), attributes: Some(all) }),
            time_nano: Some(7),
            ..Default::default()
        }
    }

    #[test]
    fn the_end_of_a_container_has_its_code_and_labels() {
        let died =
            message("die", &[("exitCode", "137"), ("name", "web"), ("image", "x"), ("berth.app", "web")]);
        let event = event_of(died, instance()).unwrap();
        assert_eq!(event.kind, EngineEventKind::Die { exit_code: 137 });
        assert_eq!(event.labels.get("berth.app").map(String::as_str), Some("web"));
        assert!(!event.labels.contains_key("image") && !event.labels.contains_key("exitCode"));
    }

    #[test]
    fn noise_and_what_belongs_to_others_is_left_out_and_the_unknown_is_kept_by_name() {
        let kind = |action: &str| event_of(message(action, &[]), instance()).map(|e| e.kind);
        assert_eq!(kind("exec_start: sh"), None);
        assert_eq!(kind("pause"), Some(EngineEventKind::Pause));
        assert_eq!(kind("update"), Some(EngineEventKind::Other("update".into())));
        let other = InstanceId::new(uuid::Uuid::from_u128(8 << 96));
        assert_eq!(event_of(message("die", &[]), other), None);
    }

    #[test]
    fn a_container_that_leaves_one_of_our_networks_is_told_of_and_no_other() {
        let leaves = |network: &str| {
            let container = "fedcba9876543210";
            let mut message = message("disconnect", &[("name", network), ("container", container)]);
            message.typ = Some(EventMessageTypeEnum::NETWORK);
            event_of(message, instance())
        };
        let event = leaves(&instance().network_name("default")).unwrap();
        assert_eq!((event.kind, event.container.as_str()), (EngineEventKind::Disconnect, "fedcba9876543210"));
        assert_eq!(leaves("bridge"), None);
    }
}
