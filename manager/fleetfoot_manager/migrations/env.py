"""What alembic runs: migrations inside the transaction of whoever asked (`fleetfoot_manager.migrate`)."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
