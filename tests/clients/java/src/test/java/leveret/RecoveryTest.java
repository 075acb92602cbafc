package leveret;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AlreadyClosedException;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.Recoverable;
import com.rabbitmq.client.RecoveryListener;
import com.rabbitmq.client.RpcClient;
import com.rabbitmq.client.RpcClientParams;
import com.rabbitmq.client.RpcServer;
import com.rabbitmq.client.ShutdownSignalException;
import com.rabbitmq.client.impl.recovery.AutorecoveringConnection;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/**
 * A client that recovers by itself after its wire was cut, and requests over direct reply-to as
 * frameworks send them: one reply consumer a channel, many requests at a time.
 */
class RecoveryTest extends World {
    private CutWire wire;
    private Connection recovering;
    private final BlockingQueue<Boolean> recovered = new LinkedBlockingQueue<>();

    @BeforeEach
    void openOverTheWire() throws Exception {
        ConnectionFactory factory = factory();
        wire = new CutWire(factory.getHost(), factory.getPort());
        factory.setHost("127.0.0.1");
        factory.setPort(wire.port);
        factory.setAutomaticRecoveryEnabled(true);
        factory.setTopologyRecoveryEnabled(true);
        factory.setNetworkRecoveryInterval(100);
        recovering = factory.newConnection();
        connections.add(recovering);
        ((Recoverable) recovering).addRecoveryListener(new RecoveryListener() {
            @Override
            public void handleRecovery(Recoverable what) {
                recovered.add(true);
            }

            @Override
            public void handleRecoveryStarted(Recoverable what) {}
        });
    }

    @AfterEach
    void closeTheWire() throws Exception {
        recovering.abort();
        wire.close();
    }

    private void cutAndRecover() throws Exception {
        recovered.clear();
        wire.cut();
        assertTrue(recovered.poll(PATIENCE, TimeUnit.NANOSECONDS) != null, "no recovery");
    }

    @Test
    void aConsumerGoesOnAfterTheConnectionWasLost() throws Exception {
        Channel channel = recovering.createChannel();
        String queue = queue(channel);
        Inbox inbox = new Inbox(channel, queue, true);
        publish(channel(), "", queue, "before");
        inbox.take(1);

        cutAndRecover();
        publish(channel(), "", queue, "after");
        assertEquals(List.of("after"), bodies(inbox.take(1)));
        assertTrue(channel.isOpen());
    }

    @Test
    void exclusiveQueuesAndTheirBindingsComeBack() throws Exception {
        Channel channel = recovering.createChannel();
        String exchange = exchange(channel, "news", "topic");
        String queue = channel.queueDeclare().getQueue();
        channel.queueBind(queue, exchange, "news.#");
        Inbox inbox = new Inbox(channel, queue, true);
        BlockingQueue<String> renamed = new LinkedBlockingQueue<>();
        ((AutorecoveringConnection) recovering).addQueueRecoveryListener((old, now) -> renamed.add(now));

        cutAndRecover();
        String now = renamed.poll(PATIENCE, TimeUnit.NANOSECONDS);
        assertNotEquals(queue, now, "the old queue went with the old connection");
        publish(channel(), exchange, "news.today", "heard");
        assertEquals(List.of("heard"), bodies(inbox.take(1)));
    }

    @Test
    void whatWasUnackedComesAgainAndStaleTagsAreHarmless() throws Exception {
        Channel channel = recovering.createChannel();
        channel.basicQos(10);
        String queue = queue(channel);
        fill(channel(), queue, numbers(0, 3));
        Inbox inbox = new Inbox(channel, queue, false);
        List<Delivery> first = inbox.take(3);

        cutAndRecover();
        List<Delivery> again = inbox.take(3);
        assertEquals(numbers(0, 3), bodies(again));
        assertEquals(List.of(true, true, true), redelivered(again));
        // A tag of the lost connection: the client drops it, and the channel lives.
        channel.basicAck(tag(first.get(0)), false);
        for (Delivery delivery : again) {
            channel.basicAck(tag(delivery), false);
        }
        channel.basicCancel(inbox.tag);
        channel.close();
        assertEquals(0, ready(channel(), queue));
    }

    @Test
    void confirmsGoOnAfterTheConnectionWasLost() throws Exception {
        Channel channel = recovering.createChannel();
        String queue = queue(channel);
        channel.confirmSelect();
        publish(channel, "", queue, "one");
        channel.waitForConfirmsOrDie(PATIENCE / 1_000_000);

        cutAndRecover();
        publish(channel, "", queue, "two");
        channel.waitForConfirmsOrDie(PATIENCE / 1_000_000);
        assertEquals(2, ready(channel(), queue));
    }

    @Test
    void recoveryHappensAsOftenAsTheWireIsCut() throws Exception {
        Channel channel = recovering.createChannel();
        String queue = queue(channel);
        Inbox inbox = new Inbox(channel, queue, true);
        for (String round : numbers(0, 5)) {
            cutAndRecover();
            publish(channel(), "", queue, round);
            assertEquals(List.of(round), bodies(inbox.take(1)));
        }
    }

    @Test
    void aChannelThatTheServerClosedIsReplaced() throws Exception {
        Channel broken = recovering.createChannel();
        Channel other = recovering.createChannel();
        String queue = queue(other);
        Inbox inbox = new Inbox(other, queue, true);
        CompletableFuture<ShutdownSignalException> closed = new CompletableFuture<>();
        broken.addShutdownListener(closed::complete);
        publish(broken, prefix + "-missing", "key", "lost");
        ShutdownSignalException signal = closed.get(PATIENCE, TimeUnit.NANOSECONDS);
        assertEquals(404, ((AMQP.Channel.Close) signal.getReason()).getReplyCode());
        assertFalse(signal.isHardError());
        assertThrows(AlreadyClosedException.class, () -> publish(broken, "", queue, "lost"));

        // As a cache of channels does: a new one, on the connection that lives on.
        Channel fresh = recovering.createChannel();
        publish(fresh, "", queue, "kept");
        assertEquals(List.of("kept"), bodies(inbox.take(1)));
        assertTrue(recovered.isEmpty(), "the connection was not lost");
    }

    @Test
    void anRpcClientCallsAndTimesOut() throws Exception {
        String queue = queue(channel());
        doubling(queue);
        RpcClient client = client(recovering.createChannel(), queue, 10_000);
        for (String number : numbers(0, 50)) {
            assertEquals(number + number, client.stringCall(number));
        }
        RpcClient unheard = client(recovering.createChannel(), queueName("nobody"), 300);
        assertThrows(TimeoutException.class, () -> unheard.stringCall("hello?"));
    }

    @Test
    void callsGoOnAfterTheConnectionWasLost() throws Exception {
        String queue = queue(channel());
        doubling(queue);
        assertEquals("aa", client(recovering.createChannel(), queue, 10_000).stringCall("a"));
        cutAndRecover();
        // That client gave up with its connection, while its reply consumer came back on the old
        // channel: the next call has a channel of its own.
        assertEquals("bb", client(recovering.createChannel(), queue, 10_000).stringCall("b"));
    }

    /** One reply consumer, requests in flight at the same time, told apart by correlation id. */
    @Test
    void manyRequestsShareAReplyConsumer() throws Exception {
        String queue = queue(channel());
        Channel worker = channel();
        worker.basicQos(5);
        worker.basicConsume(queue, false, (tag, request) -> {
            AMQP.BasicProperties asked = request.getProperties();
            AMQP.BasicProperties answer =
                    new AMQP.BasicProperties.Builder().correlationId(asked.getCorrelationId()).build();
            worker.basicPublish("", asked.getReplyTo(), answer, bytes("re " + text(request.getBody())));
            worker.basicAck(request.getEnvelope().getDeliveryTag(), false);
        }, tag -> {});

        Channel asker = recovering.createChannel();
        Map<String, CompletableFuture<String>> waiting = new ConcurrentHashMap<>();
        asker.basicConsume("amq.rabbitmq.reply-to", true, (tag, reply) -> {
            CompletableFuture<String> one = waiting.remove(reply.getProperties().getCorrelationId());
            one.complete(text(reply.getBody()));
        }, tag -> {});
        List<CompletableFuture<String>> answers = new ArrayList<>();
        for (String number : numbers(0, 200)) {
            String id = UUID.randomUUID().toString();
            waiting.put(id, new CompletableFuture<>());
            answers.add(waiting.get(id));
            AMQP.BasicProperties request = new AMQP.BasicProperties.Builder()
                    .replyTo("amq.rabbitmq.reply-to").correlationId(id).build();
            asker.basicPublish("", queue, true, request, bytes(number));
        }
        for (int number = 0; number < answers.size(); number++) {
            assertEquals("re " + number, answers.get(number).get(PATIENCE, TimeUnit.NANOSECONDS));
        }
        assertTrue(waiting.isEmpty());
    }

    /** A reply to someone who is gone is dropped, and the worker does not hear of it. */
    @Test
    void aReplyThatComesTooLateIsDropped() throws Exception {
        String queue = queue(channel());
        Channel asker = recovering.createChannel();
        asker.basicConsume("amq.rabbitmq.reply-to", true, (tag, reply) -> {}, tag -> {});
        AMQP.BasicProperties request =
                new AMQP.BasicProperties.Builder().replyTo("amq.rabbitmq.reply-to").build();
        asker.basicPublish("", queue, request, bytes("slow"));
        Channel worker = channel();
        String replyTo = get(worker, queue, true).getProps().getReplyTo();
        asker.close();

        publish(worker, "", replyTo, "late");
        assertEquals(0, ready(worker, queue));
        assertTrue(worker.isOpen());
    }

    /** Answers each request with its body twice, in a thread of its own. */
    private void doubling(String queue) throws Exception {
        RpcServer server = new RpcServer(channel(), queue) {
            @Override
            public byte[] handleCall(Delivery request, AMQP.BasicProperties reply) {
                String body = text(request.getBody());
                return bytes(body + body);
            }
        };
        Thread loop = new Thread(() -> {
            try {
                server.mainloop();
            } catch (Exception ended) {
                // The test is over.
            }
        });
        loop.setDaemon(true);
        loop.start();
    }

    private static RpcClient client(Channel channel, String queue, int milliseconds) throws Exception {
        return new RpcClient(
                new RpcClientParams().channel(channel).exchange("").routingKey(queue).timeout(milliseconds));
    }
}
