//! A person sets the records: nothing is done here, and whoever waits for the record says which one.

use async_trait::async_trait;

use crate::dns::{
    fault::DnsFault,
    provider::DnsProvider,
    record::{Record, Zone},
};

/// A person.
pub(crate) struct Manual {
    zones: Vec<String>,
}

impl Manual {
    pub(crate) fn new(zones: Vec<String>) -> Self {
        Self { zones }
    }
}

#[async_trait]
impl DnsProvider for Manual {
    fn title(&self) -> &'static str {
        "manual DNS"
    }

    async fn zones(&self) -> Result<Vec<Zone>, DnsFault> {
        Ok(self.zones.iter().map(|z| Zone { name: z.clone(), id: z.clone() }).collect())
    }

    async fn add(&self, _: &Zone, _: &Record) -> Result<(), DnsFault> {
        Ok(())
    }

    async fn remove(&self, _: &Zone, _: &Record) -> Result<(), DnsFault> {
        Ok(())
    }
}
