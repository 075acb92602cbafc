// A fast publisher and a slow consumer: the queue stays short, and nothing is lost.
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import amqp from 'amqplib';

const url = process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/';
const count = 2000;
const queue = 'thumbnails';

// One connection each: what stops a publisher must not slow its neighbour.
const [publishing, consuming] = [await amqp.connect(url), await amqp.connect(url)];
const consumer = await consuming.createChannel();
const limits = { 'x-max-length': 100, 'x-overflow': 'block' };
await consumer.assertQueue(queue, { durable: true, arguments: limits });

let stopped;
const reasons = [];
publishing.on('blocked', (reason) => {
  reasons.push(reason);
  stopped = once(publishing, 'unblocked');
});

async function publish() {
  const channel = await publishing.createChannel();
  for (let number = 0; number < count; number++) {
    channel.sendToQueue(queue, Buffer.from(`${number}.jpg`));
    if (number % 10 === 9) await sleep(1); // hears of a full queue
    await stopped;
  }
  await channel.close();
}

let [worked, longest] = [0, 0];
const done = new Promise((resolve) => {
  consumer.prefetch(10);
  consumer.consume(queue, async (message) => {
    if (!message) return;
    await sleep(1);
    consumer.ack(message);
    worked += 1;
    if (worked % 50 === 0) {
      const { messageCount } = await consumer.checkQueue(queue);
      longest = Math.max(longest, messageCount);
    }
    if (worked === count) resolve();
  });
});
await Promise.all([publish(), done]);
console.log('stopped:', reasons[0] ?? 'never');
console.log('longest queue:', longest);
console.log('worked on:', worked);
await consumer.deleteQueue(queue);
await publishing.close();
await consuming.close();
