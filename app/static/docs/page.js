"use strict";

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true, // an operation has an address of its own
  defaultModelsExpandDepth: -1, // each operation shows its own
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null, // no request to another host
  requestInterceptor: (request) => {
    // Or the browser would ask for a password itself, after a wrong one.
    request.headers["X-Requested-With"] = "XMLHttpRequest";
    return request;
  },
  showMutatedRequest: false, // curl does not need that header
});
