//! JSON requests and responses, and machine-readable errors with field, position and reason (RFC 9457).
//!
//! ```text
//! $ cargo run --example json --features json -- 127.0.0.1:8001
//! $ curl -i -H 'Content-Type: application/json' -d '{"item": "tea", "pieces": 2}' http://127.0.0.1:8001/orders
//! HTTP/1.1 201 Created
//! Content-Type: application/json
//! Location: /orders/1
//! ...
//! {"id":1,"item":"tea","pieces":2}
//! $ curl http://127.0.0.1:8001/orders/1
//! {"id":1,"item":"tea","pieces":2}
//! $ curl -H 'Content-Type: application/json' -d '{"item": "tea", "pieces": "two"}' http://127.0.0.1:8001/orders
//! {"title":"Unprocessable Entity","status":422,"detail":"invalid type: string \"two\", expected u32","column":31,"field":"pieces","line":1}
//! $ curl -H 'Content-Type: application/json' -d '{"item": "tea"' http://127.0.0.1:8001/orders
//! {"title":"Bad Request","status":400,"detail":"EOF while parsing an object","column":14,"line":1}
//! $ curl -d 'item=tea' http://127.0.0.1:8001/orders
//! {"title":"Unsupported Media Type","status":415,"detail":"the body must be application/json, by its Content-Type"}
//! $ curl -i -H 'Content-Type: application/json' -d '{"item": "tea", "pieces": 99}' http://127.0.0.1:8001/orders
//! HTTP/1.1 409 Conflict
//! Content-Type: application/problem+json
//! ...
//! {"type":"https://example.com/problems/stock","title":"Not enough in stock","status":409,"detail":"99 were asked for","left":8}
//! $ curl http://127.0.0.1:8001/orders/7
//! {"title":"Not Found","status":404}
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use heirloom::prelude::*;
use heirloom::{Json, Problem, with_state};
use serde::{Deserialize, Serialize};

/// What clients send. A field that is not known is more likely a mistake than meant to be skipped.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewOrder {
    item: String,
    pieces: u32,
}

#[derive(Clone, Serialize)]
struct Order {
    id: usize,
    item: String,
    pieces: u32,
}

struct Shop {
    orders: Vec<Order>,
    left: u32,
}

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let shop = Arc::new(Mutex::new(Shop { orders: Vec::new(), left: 10 }));
    let router = Router::new()
        .post("/orders", with_state(&shop, order))
        .get("/orders/{id}", with_state(&shop, look))
        .get("/orders", with_state(&shop, list));
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).serve()
}

fn order(shop: &Mutex<Shop>, mut req: Request) -> Result<impl IntoResponse + use<>, Problem> {
    let new: NewOrder = req.json()?;
    let mut shop = shop.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(left) = shop.left.checked_sub(new.pieces) else {
        return Err(Problem::new(StatusCode::CONFLICT)
            .kind("https://example.com/problems/stock")
            .title("Not enough in stock")
            .detail(format!("{} were asked for", new.pieces))
            .with("left", shop.left));
    };
    shop.left = left;
    let order = Order { id: shop.orders.len() + 1, item: new.item, pieces: new.pieces };
    shop.orders.push(order.clone());
    let location = format!("/orders/{}", order.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(order)))
}

fn look(shop: &Mutex<Shop>, req: Request) -> Result<Json<Order>, Problem> {
    let id: Option<usize> = req.param("id").and_then(|id| id.parse().ok());
    let shop = shop.lock().unwrap_or_else(PoisonError::into_inner);
    let order = id.and_then(|id| shop.orders.get(id.checked_sub(1)?));
    order.cloned().map(Json).ok_or(StatusCode::NOT_FOUND.into())
}

fn list(shop: &Mutex<Shop>, _: Request) -> Json<Vec<Order>> {
    Json(shop.lock().unwrap_or_else(PoisonError::into_inner).orders.clone())
}
