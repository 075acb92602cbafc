// Three reminders for later; one is cancelled before its time.
import { setTimeout as sleep } from 'node:timers/promises';
import amqp from 'amqplib';

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const channel = await connection.createConfirmChannel();
await channel.assertQueue('reminders', { durable: true, arguments: { 'x-retry-limit': 5 } });
const reminders = [
  ['call Ada', { 'x-delay': 800 }],
  ['call Bob', { 'x-delay': 600 }],
  ['call Cyd', { 'x-deliver-at': Date.now() + 400 }], // milliseconds since 1970
];
for (const [name, headers] of reminders) {
  channel.sendToQueue('reminders', Buffer.from(name), { persistent: true, messageId: name, headers });
}
await channel.waitForConfirms();

const server = process.env.HTTP_URL ?? 'http://localhost:15672';
const cancelled = await fetch(new URL('/v1/queues/reminders/messages:purge', server), {
  method: 'POST',
  headers: { authorization: `Basic ${btoa('guest:guest')}`, 'content-type': 'application/json' },
  body: JSON.stringify({ state: 'waiting', filter: { ids: ['call Bob'] } }),
});
console.log('cancelled:', (await cancelled.json()).count);

await channel.consume('reminders', (message) => {
  if (message) console.log('time to', message.content.toString());
}, { noAck: true });
await sleep(2000);
await channel.deleteQueue('reminders');
await connection.close();
