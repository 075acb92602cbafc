// A picture that kills every worker that opens it: after five of them it is put aside, and the others are done.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import amqp from 'amqplib';

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');

async function work() {
  const channel = await connection.createChannel();
  await channel.prefetch(1);
  await new Promise((done) => {
    channel.consume('uploads', (message) => {
      const name = message.content.toString();
      if (name === 'bomb') process.kill(process.pid, 'SIGKILL'); // As a broken decoder would, or the lack of memory.
      console.log('done:', name);
      channel.ack(message);
      if (name === 'photo 2') done();
    });
  });
  await connection.close();
}

async function main() {
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue('uploads', { durable: true, arguments: { 'x-retry-limit': 4 } });
  for (const name of ['bomb', 'photo 1', 'photo 2']) {
    channel.sendToQueue('uploads', Buffer.from(name), { persistent: true });
  }
  await channel.waitForConfirms();

  // Whatever starts workers starts them again: systemd, Kubernetes, or this loop.
  let killed = 0;
  for (;;) {
    const [code] = await once(fork(fileURLToPath(import.meta.url), ['worker']), 'exit');
    if (code === 0) break;
    killed += 1;
  }
  console.log('workers killed:', killed);

  let dead;
  while (!(dead = await channel.get('uploads.dlq'))) await sleep(20);
  const reasons = dead.properties.headers['x-attempts'].map(({ reason }) => reason);
  console.log(`put aside: ${dead.content} after ${reasons.length} times ${reasons.at(-1)}`);
  channel.ack(dead);
  await channel.deleteQueue('uploads');
  await channel.deleteQueue('uploads.dlq');
  await connection.close();
}

await (process.argv[2] === 'worker' ? work() : main());
