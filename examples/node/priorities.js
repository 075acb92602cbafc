// Six letters in a queue with priorities: the urgent ones leave first, each kind in its order.
import { setTimeout as sleep } from 'node:timers/promises';
import amqp from 'amqplib';

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const channel = await connection.createConfirmChannel();
await channel.assertQueue('letters', { durable: true, maxPriority: 9 });
const letters = [
  ['newsletter 1', undefined], // no priority is 0
  ['invoice 1', 5],
  ['newsletter 2', undefined],
  ['alarm 1', 9],
  ['invoice 2', 5],
  ['alarm 2', 200], // above the queue's highest: that one
];
for (const [name, priority] of letters) {
  channel.sendToQueue('letters', Buffer.from(name), { persistent: true, priority });
}
await channel.waitForConfirms();

// With a prefetch of many, a worker would hold newsletters when the next alarm comes.
await channel.prefetch(1);
await channel.consume('letters', (message) => {
  if (!message) return;
  console.log('sent:', message.content.toString());
  channel.ack(message);
});
await sleep(1000);
await channel.deleteQueue('letters');
await connection.close();
