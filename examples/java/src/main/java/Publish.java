import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.MessageProperties;

/** Publishes ten mails and waits for their confirms. */
public class Publish {
    public static void main(String[] arguments) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        // For this client the vhost "/" is no path at all.
        String url = System.getenv().getOrDefault("AMQP_URL", "amqp://guest:guest@localhost:5672/");
        factory.setUri(url.replaceFirst("/$", ""));
        try (Connection connection = factory.newConnection(); Channel channel = connection.createChannel()) {
            channel.queueDeclare("mails", true, false, false, null);
            channel.confirmSelect();
            for (int number = 0; number < 10; number++) {
                byte[] body = ("mail " + number).getBytes();
                channel.basicPublish("", "mails", MessageProperties.PERSISTENT_TEXT_PLAIN, body);
            }
            channel.waitForConfirmsOrDie(5_000);
            System.out.println("confirmed: 10 mails");
        }
    }
}
