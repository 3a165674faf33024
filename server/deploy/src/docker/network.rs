//! Private networks: one bridge per project, made when first needed.

use std::collections::HashMap;

use bollard::models::{EndpointSettings, NetworkConnectRequest, NetworkCreateRequest};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptions};

use super::client::{Docker, QUICK, SLOW};
use super::engine::{ContainerId, NetworkSummary};
use super::error::EngineError;
use super::labels::Labels;

impl Docker {
    /// The filter that every list and watch of this instance carries.
    pub(super) fn own_filter(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".to_owned(), vec![self.instance().filter()])])
    }

    async fn find_network(&self, name: &str) -> Result<Option<NetworkSummary>, EngineError> {
        let name = checked(name)?;
        let what = format!("network {name}");
        let found =
            self.call(&what, QUICK, |c| async move {
                c.inspect_network(&name, None::<InspectNetworkOptions>).await
            })
            .await;
        match found {
            Ok(network) => Ok(Some(NetworkSummary {
                id: network.id.unwrap_or_default(),
                name: network.name.unwrap_or_default(),
                labels: network.labels.unwrap_or_default().into_iter().collect(),
            })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn provide_network(&self, name: &str, mut labels: Labels) -> Result<(), EngineError> {
        let _alone = self.networks().lock().await;
        if let Some(found) = self.find_network(name).await? {
            return self.must_own(name, &found.labels);
        }
        labels.extend(self.instance().labels());
        let request = NetworkCreateRequest {
            name: checked(name)?,
            driver: Some("bridge".to_owned()),
            internal: Some(false),
            attachable: Some(false),
            labels: Some(labels.into_iter().collect()),
            ..Default::default()
        };
        let what = format!("creating network {name}");
        match self.call(&what, SLOW, |c| async move { c.create_network(request).await }).await {
            Ok(_) => Ok(()),
            // Someone was quicker: a task of ours, or somebody else.
            Err(EngineError::Conflict { .. }) => match self.find_network(name).await? {
                Some(found) => self.must_own(name, &found.labels),
                None => Err(EngineError::other(what, "it exists and does not exist")),
            },
            Err(EngineError::Other { why, .. }) if why.contains("address pool") => {
                Err(EngineError::other(what, format!("{why}; remove networks that nothing uses")))
            }
            Err(error) => Err(error),
        }
    }

    fn must_own(&self, name: &str, labels: &Labels) -> Result<(), EngineError> {
        match self.instance().owns(labels) {
            true => Ok(()),
            false => Err(EngineError::NotOurs { what: format!("network {name}") }),
        }
    }

    pub(super) async fn connect_container(
        &self,
        id: &ContainerId,
        network: &str,
        aliases: Vec<String>,
    ) -> Result<(), EngineError> {
        self.must_own_container(id).await?;
        let what = format!("connecting container {} to network {network}", id.short());
        let Some(found) = self.find_network(network).await? else {
            return Err(EngineError::NotFound { what: format!("network {network}") });
        };
        self.must_own(network, &found.labels)?;
        let request = NetworkConnectRequest {
            container: id.to_string(),
            endpoint_config: Some(EndpointSettings { aliases: Some(aliases), ..Default::default() }),
        };
        match self.call(&what, SLOW, |c| async move { c.connect_network(&found.id, request).await }).await {
            Err(EngineError::Other { why, .. }) if why.contains("already exists in network") => Ok(()),
            other => other,
        }
    }

    pub(super) async fn delete_network(&self, name: &str) -> Result<bool, EngineError> {
        let Some(found) = self.find_network(name).await? else { return Ok(false) };
        self.must_own(name, &found.labels)?;
        let what = format!("removing network {name}");
        match self.call(&what, SLOW, |c| async move { c.remove_network(&found.id).await }).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            // The engine says 403 for a network that has containers.
            Err(EngineError::Other { what, why }) if why.contains("active endpoints") => {
                Err(EngineError::Conflict { what, why })
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn own_networks(&self) -> Result<Vec<NetworkSummary>, EngineError> {
        let options = ListNetworksOptions { filters: Some(self.own_filter()) };
        let networks = self
            .call("listing networks", QUICK, |c| async move { c.list_networks(Some(options)).await })
            .await?;
        Ok(networks
            .into_iter()
            .map(|network| NetworkSummary {
                id: network.id.unwrap_or_default(),
                name: network.name.unwrap_or_default(),
                labels: network.labels.unwrap_or_default().into_iter().collect(),
            })
            .collect())
    }
}

/// A name that cannot reach another endpoint of the API.
pub(super) fn checked(name: &str) -> Result<String, EngineError> {
    let fits = (1..=128).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    match fits {
        true => Ok(name.to_owned()),
        false => Err(EngineError::invalid(
            format!("name {name:?}"),
            "1 to 128 letters, digits, '.', '_' and '-' are allowed, the first a letter or digit",
        )),
    }
}
