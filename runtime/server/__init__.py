"""Pictures over HTTP: a service that owns a pipeline and its scheduler, and the application in front of it."""
