//! The certificate of a run: made for it, trusted by its clients alone.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::Result;

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) pem: String,
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificate {
    pub(crate) fn make(directory: &Path, hosts: &[&str]) -> Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let names: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let pem = rcgen::CertificateParams::new(names)?.self_signed(&key)?.pem();
        let (chain, key_file) = (directory.join("soak.pem"), directory.join("soak-key.pem"));
        fs::write(&chain, &pem)?;
        fs::write(&key_file, key.serialize_pem())?;
        Ok(Self { pem, chain, key: key_file })
    }
}

/// An address on loopback that nobody listens on at this moment.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
