// A worker whose payments fail twice and then succeed, and one payment that never will.
import { setTimeout as sleep } from 'node:timers/promises';
import amqp from 'amqplib';

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const channel = await connection.createConfirmChannel();
const rules = { 'x-retry-limit': 3, 'x-retry-delay': 50, 'x-retry-jitter': 0 };
await channel.assertQueue('payments', { durable: true, arguments: rules });
channel.sendToQueue('payments', Buffer.from('rent'), { persistent: true });
channel.sendToQueue('payments', Buffer.from('bribe'), { persistent: true, headers: { 'x-retry-limit': 1 } });
await channel.waitForConfirms();

const left = new Set(['rent', 'bribe']);
await channel.consume('payments', (message) => {
  if (message === null) return; // The queue was deleted.
  const name = message.content.toString();
  const { 'x-attempt': attempt = 1, 'x-max-attempts': most } = message.properties.headers;
  if (name === 'rent' && attempt === 3) {
    channel.ack(message);
    console.log(`${name}: paid at attempt 3 of ${most}`);
    left.delete(name);
    return;
  }
  channel.reject(message, false);
  if (name === 'bribe' && attempt === 2) left.delete(name);
});
while (left.size > 0) await sleep(20);

let dead;
while (!(dead = await channel.get('payments.dlq'))) await sleep(20);
const tries = dead.properties.headers['x-attempts'].map(({ attempt, reason }) => `${attempt} ${reason}`);
console.log(`${dead.content}: dead after ${tries.join(', ')}`);
channel.ack(dead);
await channel.deleteQueue('payments');
await channel.deleteQueue('payments.dlq');
await connection.close();
