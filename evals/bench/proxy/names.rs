//! Many names in the certificate table: what they cost in memory, and whether a handshake notices them.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::{
    clients,
    peers::{self, Peer},
    rounds::median,
};

/// What both tables are compared at.
const SIZES: [usize; 2] = [1, 1000];

/// Starts Berth and nginx with tables of both sizes, and prints handshakes per second and memory of each.
pub(crate) async fn run(berth: &Path, port: u16, rounds: usize, time: Duration) -> anyhow::Result<()> {
    let files = tempfile::tempdir()?;
    let authority = authority()?;
    let tls = clients::connector(&authority.pem())?;
    let upstream = peers::upstream(files.path(), port)?;
    let mut worlds = Vec::new();
    for (at, size) in SIZES.into_iter().enumerate() {
        let directory = files.path().join(size.to_string());
        let names = certificates(&directory, &authority, size)?;
        for (i, name) in ["berth", "nginx"].into_iter().enumerate() {
            let port = port + 1 + 4 * at as u16 + 2 * i as u16;
            let peer = match name {
                "berth" => peers::berth_with_names(berth, &directory, port, upstream.addr)?,
                _ => peers::nginx_with_names(&directory, &names, port, upstream.addr)?,
            };
            worlds.push((size, names.clone(), peer, Vec::new()));
        }
    }
    let resident: Vec<f64> = worlds.iter().map(|(_, _, peer, _)| resident(peer)).collect();
    for _ in 0..rounds {
        for (_, names, peer, seen) in &mut worlds {
            let round = clients::handshakes(peer.https, &tls, names, time).await?;
            anyhow::ensure!(
                round.failed == 0,
                "{} of {} handshakes of {} failed",
                round.failed,
                round.requests,
                peer.name
            );
            seen.push(round.requests as f64 / round.seconds);
        }
    }
    println!(
        "\nNames in the certificate table: new TLS handshakes with a request per second, and memory before them"
    );
    let rows: Vec<_> = worlds.into_iter().zip(resident).collect();
    let mut table = Vec::new();
    for ((size, _, peer, seen), mib) in rows {
        let rate = median(seen);
        println!("{:<10}{size:>6} names{rate:>10.0}/s{mib:>10.1} MiB", peer.name);
        table.push((peer.name, size, rate, mib));
    }
    let of = |name: &str, size: usize| {
        let row = table.iter().find(|(n, s, ..)| *n == name && *s == size);
        row.map_or((0.0, 0.0), |(_, _, rate, mib)| (*rate, *mib))
    };
    let [one, many] = SIZES;
    for name in ["berth", "nginx"] {
        let ((rate, mib), (rates, mibs)) = (of(name, one), of(name, many));
        let each = (mibs - mib) * 1024.0 / (many - one) as f64;
        println!(
            "{name}: {many} names are {:.2}x the handshakes of one, and {each:.1} KiB each",
            rates / rate
        );
    }
    let (berth, nginx) = (of("berth", many), of("nginx", many));
    println!(
        "berth is {:.2}x the handshakes and {:.2}x the memory of nginx at {many} names",
        berth.0 / nginx.0,
        berth.1 / nginx.1
    );
    Ok(())
}

fn authority() -> anyhow::Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// `NAME.crt` and `NAME.key` for so many names, each with a key of its own.
fn certificates(
    directory: &Path,
    authority: &CertifiedIssuer<'static, KeyPair>,
    size: usize,
) -> anyhow::Result<Vec<String>> {
    fs::create_dir(directory)?;
    let names: Vec<String> = (0..size).map(|n| format!("n{n}.bench.localhost")).collect();
    for name in &names {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.clone()])?.signed_by(&key, authority)?;
        fs::write(directory.join(format!("{name}.crt")), certificate.pem())?;
        fs::write(directory.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(names)
}

/// MiB of a program that has just started.
fn resident(peer: &Peer) -> f64 {
    peer.program.resident_kib() as f64 / 1024.0
}

/// One server block per name, all to the same app.
pub(crate) fn server_blocks(
    directory: &Path,
    names: &[String],
    https: std::net::SocketAddr,
    location: &str,
) -> String {
    let mut blocks = String::new();
    for name in names {
        let file = |kind: &str| -> PathBuf { directory.join(format!("{name}.{kind}")) };
        // Writing to a string does not fail.
        let _ = writeln!(
            blocks,
            "server {{ listen {https} ssl; server_name {name}; ssl_certificate {}; ssl_certificate_key {}; {location} }}",
            file("crt").display(),
            file("key").display(),
        );
    }
    blocks
}
