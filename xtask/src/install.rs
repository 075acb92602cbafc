//! `cargo xtask install`: what the tests need on a Debian machine, installed where it is missing.
//!
//! Keeps: a second run finds everything there and takes no time; no installed service starts.
//! Never: replaces what is there; installs outside apt and `.tools`.
//! In: `main`, `suite`; `torture` for what only its failovers need.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{ci, process};

/// Something that must be there: how it is found, and the Debian package that brings it.
struct Need {
    package: &'static str,
    probe: Probe,
}

enum Probe {
    /// A program on the path.
    Program(&'static str),
    /// A file.
    File(&'static str),
    /// A command that succeeds.
    Works(&'static [&'static str]),
}

const NEEDS: &[Need] = &[
    Need {
        package: "gcc",
        probe: Probe::Program("cc"),
    },
    Need {
        package: "libc6-dev",
        probe: Probe::File("/usr/include/stdlib.h"),
    },
    Need {
        package: "git",
        probe: Probe::Program("git"),
    },
    Need {
        package: "procps",
        probe: Probe::Program("ps"),
    },
    // The oracle; its scripts are not on the path.
    Need {
        package: "rabbitmq-server",
        probe: Probe::File("/usr/lib/rabbitmq/bin/rabbitmq-server"),
    },
    // A suite of another client runs in a network of its own.
    Need {
        package: "util-linux",
        probe: Probe::Program("unshare"),
    },
    Need {
        package: "openssl",
        probe: Probe::Program("openssl"),
    },
    Need {
        package: "iproute2",
        probe: Probe::File("/bin/ip"),
    },
    Need {
        package: "amqp-tools",
        probe: Probe::Program("amqp-publish"),
    },
    // Where celery's own tests keep results.
    Need {
        package: "redis-server",
        probe: Probe::Program("redis-server"),
    },
    // The shared store's; the tests start servers of their own, this one's cluster never runs.
    Need {
        package: "postgresql",
        probe: Probe::Works(&["sh", "-c", "ls /usr/lib/postgresql/*/bin/postgres"]),
    },
    Need {
        package: "prometheus",
        probe: Probe::Program("prometheus"),
    },
    Need {
        package: "prometheus",
        probe: Probe::Program("promtool"),
    },
    Need {
        package: "python3",
        probe: Probe::Program("python3"),
    },
    Need {
        package: "python3-venv",
        probe: Probe::Works(&["python3", "-c", "import ensurepip, venv"]),
    },
    Need {
        package: "nodejs",
        probe: Probe::Program("node"),
    },
    Need {
        package: "npm",
        probe: Probe::Program("npm"),
    },
    Need {
        package: "golang-go",
        probe: Probe::Program("go"),
    },
    Need {
        package: "default-jdk-headless",
        probe: Probe::Program("javac"),
    },
    Need {
        package: "maven",
        probe: Probe::Program("mvn"),
    },
];

/// For failovers of PostgreSQL, which are no part of `cargo xtask test`.
const FAILOVERS: &[Need] = &[
    Need {
        package: "postgresql",
        probe: Probe::Works(&["sh", "-c", "ls /usr/lib/postgresql/*/bin/postgres"]),
    },
    Need {
        package: "etcd-server",
        probe: Probe::Program("etcd"),
    },
    Need {
        package: "patroni",
        probe: Probe::Program("patroni"),
    },
    // Not on everybody's path.
    Need {
        package: "haproxy",
        probe: Probe::File("/usr/sbin/haproxy"),
    },
];

/// The oldest version with which the client suites work, and how a program tells its own.
const VERSIONS: &[(&[&str], [u32; 2])] = &[
    (&["python3", "--version"], [3, 9]),
    (&["node", "--version"], [20, 0]),
    (&["go", "version"], [1, 24]),
    (&["javac", "-version"], [17, 0]),
];

/// Installs what is missing.
///
/// # Errors
/// Something is missing or too old and cannot be had from here.
pub(crate) fn run() -> Result<()> {
    bring(NEEDS)?;
    for (command, least) in VERSIONS {
        check_version(command, *least)?;
    }
    ci::install_tools()
}

/// Installs what failovers of PostgreSQL need, where it is missing.
///
/// # Errors
/// Something is missing and cannot be had from here.
pub(crate) fn for_failovers() -> Result<()> {
    bring(FAILOVERS)
}

fn bring(needs: &'static [Need]) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        println!("nothing is missing");
        return Ok(());
    }
    println!("missing: {}", missing.join(" "));
    install(&missing)?;
    let still = self::missing(needs);
    if !still.is_empty() {
        bail!("still missing after the installation: {}", still.join(" "));
    }
    Ok(())
}

fn missing(needs: &'static [Need]) -> Vec<&'static str> {
    let mut packages: Vec<_> = needs
        .iter()
        .filter(|need| !found(&need.probe))
        .map(|need| need.package)
        .collect();
    packages.dedup();
    packages
}

fn found(probe: &Probe) -> bool {
    match probe {
        Probe::Program(name) => {
            let path = env::var_os("PATH").unwrap_or_default();
            env::split_paths(&path).any(|dir| dir.join(name).is_file())
        }
        Probe::File(path) => Path::new(path).exists(),
        Probe::Works(words) => words.split_first().is_some_and(|(program, rest)| {
            process::output(&mut process::command(program, rest)).is_ok()
        }),
    }
}

fn install(packages: &[&str]) -> Result<()> {
    let by_hand = format!("install them by hand: {}", packages.join(" "));
    if !found(&Probe::Program("apt-get")) {
        bail!("this is no Debian machine; {by_hand}");
    }
    let root = process::output(&mut process::command("id", &["-u"]))?.trim() == "0";
    if !root && !found(&Probe::Works(&["sudo", "-n", "true"])) {
        bail!("apt-get wants root; {by_hand}");
    }
    let apt = |words: &[&str]| -> Command {
        let front: &[&str] = if root {
            &["env"]
        } else {
            &["sudo", "-n", "env"]
        };
        let mut command = process::command(front[0], &front[1..]);
        command
            .args([
                "DEBIAN_FRONTEND=noninteractive",
                "apt-get",
                "--quiet",
                "--yes",
            ])
            .args(words);
        command
    };
    process::run(&mut apt(&["update"]), APT_MAX)?;
    let policy = root.then(Policy::put).transpose()?.flatten();
    let mut install = apt(&["install", "--no-install-recommends"]);
    let outcome = process::run(install.args(packages), APT_MAX);
    drop(policy);
    outcome
}

/// Debian's way to say that a package must not start its service. Gone when this value is.
struct Policy;

impl Policy {
    const PATH: &str = "/usr/sbin/policy-rc.d";

    /// `None` where the machine has a policy of its own.
    fn put() -> Result<Option<Self>> {
        if Path::new(Self::PATH).exists() {
            return Ok(None);
        }
        fs::write(Self::PATH, "#!/bin/sh\nexit 101\n").context(Self::PATH)?;
        let policy = Self;
        fs::set_permissions(Self::PATH, fs::Permissions::from_mode(0o755)).context(Self::PATH)?;
        Ok(Some(policy))
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let _ = fs::remove_file(Self::PATH);
    }
}

fn check_version(words: &[&str], least: [u32; 2]) -> Result<()> {
    let (program, rest) = words.split_first().context("no program")?;
    let told = process::output(&mut process::command(program, rest))?;
    let version = version_in(&told).with_context(|| format!("{program} says {told:?}"))?;
    if version < least {
        let [major, minor] = least;
        bail!(
            "{program} {}.{} is too old: {major}.{minor} is needed",
            version[0],
            version[1]
        );
    }
    Ok(())
}

/// The first `a.b` or lone `a` of a text such as `go version go1.24.4 linux/amd64`.
fn version_in(text: &str) -> Option<[u32; 2]> {
    let start = text.find(|letter: char| letter.is_ascii_digit())?;
    let mut parts = text[start..].split(|letter: char| !letter.is_ascii_digit());
    let major = parts.next()?.parse().ok()?;
    let dotted = text[start..].trim_start_matches(|letter: char| letter.is_ascii_digit());
    let minor = if dotted.starts_with('.') {
        parts.next()?.parse().ok()?
    } else {
        0
    };
    Some([major, minor])
}

const APT_MAX: Duration = Duration::from_secs(1800);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(version_in("Python 3.11.7\n"), Some([3, 11]));
        assert_eq!(version_in("v20.20.2"), Some([20, 20]));
        assert_eq!(version_in("go version go1.24.4 linux/amd64"), Some([1, 24]));
        assert_eq!(version_in("javac 21\n"), Some([21, 0]));
        assert_eq!(version_in("none"), None);
    }

    #[test]
    fn a_program_that_is_nowhere_is_missing() {
        assert!(found(&Probe::Program("sh")));
        assert!(!found(&Probe::Program("no-such-program-here")));
        assert!(!found(&Probe::Works(&["false"])));
    }
}
