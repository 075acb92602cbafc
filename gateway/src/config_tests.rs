//! What the configuration file may say, and what is answered when it is wrong.
#![allow(clippy::unwrap_used)]

use super::*;

fn read(text: &str) -> Result<Config, Error> {
    super::read("leveret.toml", text, &Given::default())
}

fn refusal(text: &str) -> String {
    read(text).map(|_| ()).unwrap_err().to_string()
}

const REPORT: &str = r#"
[[schedule]]
name = "report"
cron = "0 9 * * 1-5"
zone = "Europe/Berlin"
target = { queue = "reports" }
body = "{}"
headers = { kind = "daily", size = 3 }
"#;

#[test]
fn consumers_have_as_much_time_as_the_file_says() {
    let timeout = |text: &str| {
        let config = read(&format!("[store]\nconsumer_timeout = \"{text}\"\n")).unwrap();
        config.consumer_timeout_ms
    };
    assert_eq!(timeout("90s"), Some(90_000));
    assert_eq!(timeout("never"), None);
    let wrong = refusal("[store]\nconsumer_timeout = 5\n");
    assert!(wrong.starts_with("leveret.toml:2: "), "{wrong}");
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = read("").unwrap();
    let both = |port| {
        [format!("127.0.0.1:{port}"), format!("[::1]:{port}")]
            .map(|text| text.parse::<SocketAddr>().unwrap())
    };
    assert_eq!(config.listen.amqp, both(5672));
    assert_eq!(config.listen.http, both(15672));
    assert!(config.listen.amqps.is_empty() && config.tls.is_none());
    assert_eq!(config.auth.offered(true), "PLAIN AMQPLAIN");
    assert_eq!(config.data_dir, Path::new("./leveret-data"));
    assert_eq!(config.store, StoreUrl::Sqlite(None));
    assert_eq!(config.calls.timeout, HOUR);
    assert_eq!(config.consumer_timeout_ms, Some(1_800_000));
    assert_eq!(config.calls.body_bytes_max, 1 << 20);
}

#[test]
fn a_flag_replaces_what_the_file_says() {
    let text = "[listen]\namqp = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:2\"";
    let file = Source { name: "f", text }.parse().unwrap();
    let given = Given {
        amqp_listen: "127.0.0.1:9".parse().ok(),
        ..Given::default()
    };
    let config = merge(&given, file, Vec::new(), None).unwrap();
    assert_eq!(
        (config.listen.amqp[0].port(), config.listen.http[0].port()),
        (9, 2)
    );
}

#[test]
fn an_unknown_key_names_line_and_nearest() {
    assert_eq!(
        refusal("[calls]\nbody_max = \"2MiB\"\ntimout = \"5s\""),
        "leveret.toml:3: timout is not a known key; did you mean timeout?"
    );
    assert_eq!(
        refusal("[listn]\namqp = \"127.0.0.1:5672\""),
        "leveret.toml:1: listn is not a known key; did you mean listen?"
    );
    assert_eq!(
        refusal(&REPORT.replace("queue =", "queu =")),
        "leveret.toml:6: queu is not a known key; did you mean queue?"
    );
}

#[test]
fn a_bad_schedule_names_line_and_reason() {
    for (from, to, reason) in [
        (
            "0 9 * * 1-5",
            "61 * * * *",
            "4: minute: 61 is out of range 0-59",
        ),
        (
            "0 9 * * 1-5",
            "0 0 31 2 *",
            "4: day of month and month: 31 2 never occurs",
        ),
        (
            "Europe/Berlin",
            "Europe/Berlim",
            "5: zone: Europe/Berlim is not a known zone; did you mean Europe/Berlin?",
        ),
    ] {
        assert_eq!(
            refusal(&REPORT.replace(from, to)),
            format!("leveret.toml:{reason}")
        );
    }
    let both = REPORT.replace("queue =", "exchange = \"e\", queue =");
    assert!(refusal(&both).starts_with("leveret.toml:6: target: write"));
    let twice = format!("{REPORT}{REPORT}");
    assert_eq!(
        refusal(&twice),
        "leveret.toml:11: name: report is used by two schedules"
    );
    let broken = REPORT.replace("[[schedule]]", "[[schedule]");
    assert!(
        refusal(&broken).starts_with("leveret.toml:2: "),
        "{}",
        refusal(&broken)
    );
}

#[test]
fn a_tick_says_what_it_is() {
    let config = read(REPORT).unwrap();
    let schedule = &config.schedules[0];
    let (nominal, fired) = ("2026-03-02T08:00:00Z", "2026-03-02T08:00:01Z");
    let raw = (schedule.encode)(
        &schedule.name,
        nominal.parse().unwrap(),
        fired.parse().unwrap(),
    );
    let properties = Properties::parse(&raw).unwrap();
    let text = |name| {
        properties
            .header(name)
            .and_then(|v| v.as_text().map(str::to_owned))
    };
    assert_eq!(text("x-schedule").unwrap(), "report");
    assert_eq!(text("x-scheduled-time").unwrap(), nominal);
    assert_eq!(text("x-fired-at").unwrap(), fired);
    assert_eq!(text("kind").unwrap(), "daily");
    assert_eq!(properties.header("size").unwrap().as_i64(), Some(3));
    assert_eq!(properties.delivery_mode, Some(2));
    assert_eq!(
        (schedule.exchange.as_str(), schedule.routing_key.as_str()),
        ("", "reports")
    );
}

#[test]
fn only_what_decides_the_times_changes_the_hash() {
    let hash = |text: &str| read(text).unwrap().schedules[0].spec_hash;
    assert_eq!(hash(REPORT), hash(&REPORT.replace("{}", "{ }")));
    assert_ne!(hash(REPORT), hash(&REPORT.replace("0 9", "0 8")));
    assert_ne!(hash(REPORT), hash(&REPORT.replace("Berlin", "London")));
    assert_ne!(
        hash(REPORT),
        hash(&REPORT.replace("body", "dst_gap = \"skip\"\nbody"))
    );
}

#[test]
fn spans_and_sizes() {
    assert_eq!(
        "1h30m".parse::<Span>().unwrap().0,
        Duration::from_secs(5_400)
    );
    assert_eq!(
        "250ms".parse::<Span>().unwrap().0,
        Duration::from_millis(250)
    );
    for wrong in ["", "5", "h", "0s", "1w", "-1s", "99999d", "1.5h"] {
        assert!(wrong.parse::<Span>().is_err(), "{wrong}");
    }
    let size = |text: &str| ByteSize::try_from(ByteText::Text(text.into())).map(|size| size.0);
    assert_eq!(size("64 KiB"), Ok(65_536));
    assert!(size("1 parsec").is_err());
}

#[test]
fn stores() {
    let parsed = store_url;
    let store_url = |text: &str| parsed(text, &Given::default(), &StoreSection::default());
    assert_eq!(store_url("memory").unwrap(), StoreUrl::Memory);
    assert_eq!(
        store_url("sqlite:///x/y.db").unwrap(),
        StoreUrl::Sqlite(Some("/x/y.db".into()))
    );
    let Ok(StoreUrl::Postgres(shared)) = store_url("postgres://me:secret@h/db") else {
        panic!("no PostgreSQL");
    };
    assert_eq!(format!("{shared:?}"), "postgres://me@h:5432/db");
    assert_eq!(shared.lease, Duration::from_secs(5));
    assert!(store_url("postgres://h").is_err());
    let text = "[store]\nurl = \"postgres://h/db\"\nlease = \"500ms\"";
    assert!(refusal(text).contains("lease is 500ms; it may be 1s to 60s"));
    assert!(store_url("mysql").is_err());
}

#[test]
fn a_listener_has_any_number_of_addresses() {
    let text = "[listen]\namqp = [\"0.0.0.0:5672\", \"[::]:5672\"]\nhttp = []\n\
                proxy_protocol = [\"amqp\"]";
    let listen = read(text).unwrap().listen;
    assert_eq!(listen.amqp.len(), 2);
    assert!(listen.http.is_empty());
    assert_eq!(listen.proxied, [Listener::Amqp]);
    assert!(
        refusal("[listen]\namqp = \"localhost:5672\"")
            .starts_with("leveret.toml:2: localhost:5672 is no address; write it as in")
    );
}

#[test]
fn tls_needs_all_that_it_uses() {
    for (text, reason) in [
        ("[listen]\namqps = \"0.0.0.0:5671\"", "need cert and key"),
        ("[tls]\ncert = \"c\"", "go together"),
        (
            "[tls]\ncert = \"c\"\nkey = \"k\"\nverify_peer = true",
            "needs ca",
        ),
        ("[tls]\nfail_if_no_peer_cert = true", "needs verify_peer"),
        ("[auth]\nmechanisms = [\"EXTERNAL\"]", "needs [tls]"),
        ("[auth]\nmechanisms = []", "no mechanism is left"),
    ] {
        assert!(refusal(text).contains(reason), "{text}: {}", refusal(text));
    }
}

#[test]
fn mechanisms_are_offered_where_they_can_work() {
    let text = "[tls]\ncert = \"c\"\nkey = \"k\"\nca = \"a\"\nverify_peer = true\n\
                [auth]\nmechanisms = [\"PLAIN\", \"EXTERNAL\"]\n\
                anonymous_login_user = \"visitor\"";
    let auth = read(text).unwrap().auth;
    assert_eq!(auth.offered(true), "PLAIN EXTERNAL ANONYMOUS");
    assert_eq!(auth.offered(false), "PLAIN ANONYMOUS");
    let none = "[auth]\nanonymous_login_user = \"none\"";
    assert_eq!(read(none).unwrap().auth.offered(true), "PLAIN AMQPLAIN");
}

#[test]
fn alarms_are_bytes_or_a_share() {
    let alarm = |text| read(text).unwrap().alarm;
    assert_eq!(alarm("").memory, Amount::Percent(60));
    assert_eq!(
        alarm("[alarm]\nmemory = \"2GiB\"").memory,
        Amount::Bytes(2 << 30)
    );
    assert_eq!(alarm("[alarm]\nmemory = \"40%\"").memory.of(1000), 400);
    assert_eq!(alarm("[alarm]\ndisk_free = 0").disk_free, Some(0));
    assert!(refusal("[alarm]\nmemory = \"101%\"").contains("write it as in 60%"));
}
