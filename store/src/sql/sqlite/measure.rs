//! Figures for `docs/adr/0001-storage.md`, on demand:
//! `cargo test --release -p store measure -- --ignored --nocapture --test-threads 1`, where
//! `SHAPE='1 message'` picks some of the shapes.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::contract::put_queues;
use super::*;
use crate::log::batch::*;

const TIME: Duration = Duration::from_secs(3);

struct Shape {
    name: &'static str,
    bytes: usize,
    sync: bool,
    /// Segments that stay before the oldest is dropped; none for a backlog that only grows.
    kept: Option<usize>,
}

const SHAPES: [Shape; 7] = [
    Shape {
        name: "1 message, synced",
        bytes: 100,
        sync: true,
        kept: Some(8),
    },
    Shape {
        name: "1 message, relaxed",
        bytes: 100,
        sync: false,
        kept: Some(8),
    },
    Shape {
        name: "64 KiB, backlog",
        bytes: 64 << 10,
        sync: true,
        kept: None,
    },
    Shape {
        name: "64 KiB, flow",
        bytes: 64 << 10,
        sync: true,
        kept: Some(8),
    },
    Shape {
        name: "256 KiB, flow",
        bytes: 256 << 10,
        sync: true,
        kept: Some(8),
    },
    Shape {
        name: "1 MiB, backlog",
        bytes: 1 << 20,
        sync: true,
        kept: None,
    },
    Shape {
        name: "1 MiB, flow",
        bytes: 1 << 20,
        sync: true,
        kept: Some(8),
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn measure_commits() {
    for page_bytes in [4096, 8192, 16384] {
        let wanted = std::env::var("SHAPE").unwrap_or_default();
        for shape in SHAPES.iter().filter(|shape| shape.name.contains(&wanted)) {
            run(page_bytes, shape).await;
        }
    }
}

#[expect(clippy::print_stdout, reason = "the figures are the point")]
async fn run(page_bytes: u32, shape: &Shape) {
    let dir = tempfile::tempdir_in(".").unwrap();
    let options = Options {
        page_bytes,
        ..Options::default()
    };
    let engine = Sqlite::open(&dir.path().join("leveret.db"), options)
        .await
        .unwrap();
    engine
        .commit(Arc::new(put_queues([1])), true)
        .await
        .unwrap();
    let mut kept = VecDeque::new();
    let (start, cpu, written) = (Instant::now(), cpu_ms(), written_bytes());
    let mut n = 0;
    let mut worst = Duration::ZERO;
    let mut longest = 0;
    while start.elapsed() < TIME {
        n += 1;
        let mut batch = flow(n, shape.bytes);
        kept.push_back(SegmentId(n));
        if shape.kept.is_some_and(|limit| kept.len() > limit) {
            batch.dropped_segments.extend(kept.pop_front());
        }
        let begun = Instant::now();
        engine.commit(Arc::new(batch), shape.sync).await.unwrap();
        worst = worst.max(begun.elapsed());
        longest = longest.max(engine.disk_bytes().1);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let commits = n as f64;
    let megabytes = commits * shape.bytes as f64 / 1e6;
    println!(
        "{page_bytes:>6} | {:<18} | {:>6.0}/s | {:>4.0} MB/s | cpu {:>5.0} us | disk {:>6.0} KiB | worst {:>4} ms | log {:>3} MiB",
        shape.name,
        commits / elapsed,
        megabytes / elapsed,
        (cpu_ms() - cpu) * 1000.0 / commits,
        (written_bytes() - written) as f64 / 1024.0 / commits,
        worst.as_millis(),
        longest >> 20,
    );
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
#[expect(clippy::print_stdout, reason = "the figures are the point")]
async fn measure_load() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let path = dir.path().join("leveret.db");
    let engine = Sqlite::open(&path, Options::default()).await.unwrap();
    engine
        .commit(Arc::new(put_queues([1])), true)
        .await
        .unwrap();
    for n in 1..=10_000 {
        engine
            .commit(Arc::new(flow(n, 256 << 10)), false)
            .await
            .unwrap();
    }
    engine.close().await;
    for _ in 0..2 {
        let _ = std::process::Command::new("python3")
            .args(["-c", DROP_CACHE])
            .arg(&path)
            .status();
        for cache in ["cold", "warm"] {
            let start = Instant::now();
            let engine = Sqlite::open(&path, Options::default()).await.unwrap();
            let opened = start.elapsed();
            let image = engine.load().await.unwrap();
            println!(
                "{cache}: open {opened:?}, load of {} {:?}",
                image.segments.len(),
                start.elapsed() - opened
            );
            engine.close().await;
        }
    }
    let engine = Sqlite::open(&path, Options::default()).await.unwrap();
    let start = Instant::now();
    for n in 1..=1000 {
        engine
            .read_segment(SegmentId(n * 9))
            .await
            .unwrap()
            .unwrap();
    }
    println!("read of a 256 KiB segment: {:?}", start.elapsed() / 1000);
    let start = Instant::now();
    let drops = (1..=256).map(SegmentId).collect();
    let batch = Batch {
        dropped_segments: drops,
        ..Batch::default()
    };
    engine.commit(Arc::new(batch), true).await.unwrap();
    println!("256 segments of 256 KiB dropped: {:?}", start.elapsed());
    let definitions = vec![DefinitionChange::DeleteQueue(QueueId(1))];
    let start = Instant::now();
    engine
        .commit(
            Arc::new(Batch {
                definitions,
                ..Batch::default()
            }),
            true,
        )
        .await
        .unwrap();
    println!("queue of 2.5 GB deleted: {:?}", start.elapsed());
    let start = Instant::now();
    engine.maintain().await.unwrap();
    println!("one sweep: {:?}", start.elapsed());
    engine.close().await;
}

fn flow(n: u64, bytes: usize) -> Batch {
    let row = SegmentRow {
        id: SegmentId(n),
        queue: QueueId(1),
        first_seq: n,
        last_seq: n,
        count: 1,
        bytes: bytes as u64,
        transient: false,
        first_at: 0,
        last_at: 0,
        index: vec![0; 16],
        data: vec![n as u8; bytes],
    };
    let heads = vec![HeadRow {
        queue: QueueId(1),
        head: n,
        handed: n,
        next: n + 1,
    }];
    Batch {
        number: n,
        segments: vec![row],
        heads,
        ..Batch::default()
    }
}

/// User and system time of this process, in ticks of 10 ms.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10.0
}

fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .unwrap();
    line.parse().unwrap()
}

const DROP_CACHE: &str =
    "import os,sys; f=os.open(sys.argv[1],0); os.fsync(f); os.posix_fadvise(f,0,0,4)";
